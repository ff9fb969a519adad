#include "coordinator/gateway/messages_request.h"

#include <boost/json.hpp>

#include "base/cat.h"
#include "coordinator/gateway/json_fields.h"

namespace baton::coordinator {
namespace {

namespace json = boost::json;

constexpr size_t kMaxTools = 256;
constexpr size_t kMaxBlocks = 8192;
constexpr size_t kMaxText = 64 * 1024 * 1024;  // a body is smaller
constexpr size_t kMaxName = 256;
// Of a chat's body, and of vLLM's additions to it: they mean here what they mean there.
constexpr const char* kAsInChat[] = {"model",
                                     "stream",
                                     "temperature",
                                     "top_p",
                                     "top_k",
                                     "min_p",
                                     "seed",
                                     "presence_penalty",
                                     "logit_bias",
                                     "min_tokens",
                                     "frequency_penalty",
                                     "repetition_penalty",
                                     "ignore_eos",
                                     "stop_token_ids",
                                     "skip_special_tokens",
                                     "cache_salt",
                                     "stop_sequences",
                                     "separate_reasoning"};

// Reads one body. Errors are kept in fields_, the first one counts; what is read after it is dropped.
class MessagesReader {
 public:
  MessagesReader(const json::object& body, bool to_answer) : fields_(body), to_answer_(to_answer) {}

  std::expected<ChatBody, ApiError> read() {
    for (const char* name : kAsInChat)
      if (const json::value* value = fields_.any(name)) chat_[name] = *value;
    read_max_tokens();
    if (const json::value* system = fields_.any("system")) add_system(*system, "system");
    read_messages();
    read_tools();
    read_tool_choice();
    read_thinking();
    read_output_config();
    refuse_servers();
    fields_.accept({"metadata", "service_tier", "cache_control", "context_management", "diagnostics",
                    "inference_geo", "speed", "user_profile_id", "workspace_id"});
    if (!fields_.ok()) return std::unexpected(*fields_.error());
    chat_["messages"] = messages_.take();
    return ChatBody{std::move(chat_), fields_.unknown_fields()};
  }

 private:
  void fail(std::string param, std::string message) {
    fields_.fail(invalid_value(std::move(param), std::move(message)));
  }
  void refuse(std::string param, std::string message) {
    fields_.fail(not_supported(std::move(param), std::move(message)));
  }
  // After the reading of a part of the body.
  bool took(const JsonFields& part) {
    if (!part.ok()) fields_.fail(*part.error());
    return part.ok();
  }

  void read_max_tokens() {
    const auto most = fields_.integer("max_tokens", 1, INT32_MAX);
    if (most) chat_["max_tokens"] = *most;
    if (!most && to_answer_) fail("max_tokens", "`max_tokens` is missing");
  }

  // ---- messages

  // A string, or blocks of text: the text of a system prompt or of a tool's result, as parts.
  std::optional<json::array> text_parts(const json::value& content, const std::string& where) {
    if (content.is_string()) return json::array{text_part(content.get_string())};
    const json::array* blocks = content.if_array();
    if (!blocks)
      return fail("messages", cat("`", where, "` must be a string or a list of blocks")), std::nullopt;
    json::array parts;
    for (size_t i = 0; i < blocks->size(); ++i) {
      const auto text = text_of((*blocks)[i], cat(where, "[", i, "]"));
      if (!text) return std::nullopt;
      parts.push_back(text_part(*text));
    }
    return parts;
  }

  // Of a block that is text, or a document of text.
  std::optional<std::string> text_of(const json::value& block, const std::string& where) {
    if (!block.is_object()) return fail("messages", cat("`", where, "` must be an object")), std::nullopt;
    JsonFields one(block.get_object(), where + ".");
    const std::string type = one.string("type", kMaxName).value_or("");
    std::optional<std::string> text;
    if (type == "text") {
      text = one.string("text", kMaxText);
      if (!text) fail("messages", cat("`", where, ".text` must be a string"));
    } else if (type == "document") {
      text = document_of(one, where);
    }
    if (!took(one) || !fields_.ok()) return std::nullopt;
    if (text) return text;
    refuse("messages", cat("`", where, "`: blocks of type ", type.empty() ? "(missing)" : type,
                           " are not supported here; text is"));
    return std::nullopt;
  }

  // What is known of a document of text and the text itself, on lines of their own; nullopt for other kinds.
  std::optional<std::string> document_of(JsonFields& block, const std::string& where) {
    const json::object* source = block.object("source");
    const json::value* kind = source ? source->if_contains("type") : nullptr;
    if (!kind || *kind != "text") return std::nullopt;
    JsonFields inner(*source, where + ".source.");
    std::string text;
    for (const char* name : {"title", "context"})
      if (const auto line = block.string(name, kMaxText); line && !line->empty()) text += *line + "\n";
    text += inner.string("data", kMaxText).value_or("");
    took(inner);
    return text;
  }

  void add_system(const json::value& system, const std::string& where) {
    const auto parts = text_parts(system, where);
    for (size_t i = 0; parts && i < parts->size(); ++i)
      messages_.add_text("system", (*parts)[i].at("text").get_string());
  }

  void read_messages() {
    const json::array* given = fields_.array("messages", kMaxMessages);
    if (!fields_.ok()) return;
    if (!given || given->empty())
      return fail("messages", "`messages` must be a list with at least one message");
    for (size_t i = 0; i < given->size() && fields_.ok(); ++i)
      read_message((*given)[i], cat("messages[", i, "]"));
    if (messages_.too_many())
      fail("messages", cat("`messages` must have at most ", kMaxMessages, " messages and results of tools"));
    if (fields_.ok()) read_begun_answer();
  }

  void read_message(const json::value& message, const std::string& where) {
    if (!message.is_object()) return fail("messages", cat("`", where, "` must be an object"));
    JsonFields one(message.get_object(), where + ".");
    const std::string role = one.string("role", kMaxName).value_or("");
    const json::value* content = one.any("content");
    if (!took(one)) return;
    if (!content) return fail("messages", cat("`", where, ".content` is missing"));
    if (role == "system") return add_system(*content, where + ".content");
    if (role != "user" && role != "assistant")
      return fail("messages", cat("`", where, ".role` must be user, assistant or system"));
    if (content->is_string()) return messages_.add_text(role, content->get_string());
    const json::array* blocks = content->if_array();
    if (!blocks || blocks->size() > kMaxBlocks)
      return fail("messages",
                  cat("`", where, ".content` must be a string or a list of at most ", kMaxBlocks, " blocks"));
    messages_.begin(role);
    for (size_t i = 0; i < blocks->size() && fields_.ok(); ++i)
      read_block(role, (*blocks)[i], cat(where, ".content[", i, "]"));
  }

  void read_block(const std::string& role, const json::value& block, const std::string& where) {
    const json::object* object = block.if_object();
    const json::value* type = object ? object->if_contains("type") : nullptr;
    const auto is = [&](const char* of_role, const char* name) {
      return role == of_role && type && *type == name;
    };
    if (is("user", "tool_result")) return add_result(*object, where);
    if (is("assistant", "tool_use")) return add_call(*object, where);
    if (is("assistant", "thinking")) return add_thoughts(*object, where);
    if (is("assistant", "redacted_thinking")) return;  // of a model that is not here
    if (const auto text = text_of(block, where)) messages_.add_text(role, *text);
  }

  void add_result(const json::object& block, const std::string& where) {
    JsonFields one(block, where + ".");
    const std::string id = one.string("tool_use_id", kMaxName).value_or("");
    const json::value* content = one.any("content");
    if (!took(one)) return;
    if (id.empty()) return fail("messages", cat("`", where, ".tool_use_id` must be a string"));
    json::value result = "";
    if (content) {
      auto parts = text_parts(*content, where + ".content");
      if (!parts) return;
      result = *std::move(parts);
    }
    messages_.add_result(id, std::move(result));
  }

  void add_call(const json::object& block, const std::string& where) {
    JsonFields one(block, where + ".");
    const std::string id = one.string("id", kMaxName).value_or("");
    const std::string name = one.string("name", kMaxName).value_or("");
    const json::object* input = one.object("input");
    if (!took(one)) return;
    if (id.empty() || name.empty()) return fail("messages", cat("`", where, "` must have `id` and `name`"));
    messages_.add_call(id, name, input ? *input : json::object());
  }

  void add_thoughts(const json::object& block, const std::string& where) {
    JsonFields one(block, where + ".");
    const auto thoughts = one.string("thinking", kMaxText);
    if (!took(one) || !thoughts) return;
    messages_.add_thoughts(*thoughts);
  }

  void read_begun_answer() {
    if (!messages_.ends_in("assistant")) return;
    if (messages_.ends_in_call())
      return fail("messages", "`messages` ends in a tool_use: its tool_result must follow");
    chat_["continue_final_message"] = true;
  }

  // ---- tools

  void read_tools() {
    const json::array* given = fields_.array("tools", kMaxTools);
    if (!given || given->empty()) return;
    json::array tools;
    for (size_t i = 0; i < given->size() && fields_.ok(); ++i)
      if (auto tool = read_tool((*given)[i], cat("tools[", i, "]"))) tools.push_back(*std::move(tool));
    chat_["tools"] = std::move(tools);
  }

  std::optional<json::object> read_tool(const json::value& tool, const std::string& where) {
    if (!tool.is_object()) return fail("tools", cat("`", where, "` must be an object")), std::nullopt;
    JsonFields one(tool.get_object(), where + ".");
    const std::string type = one.string("type", kMaxName).value_or("custom");
    const auto name = one.string("name", kMaxName);
    const auto description = one.string("description", kMaxText);
    const json::object* schema = one.object("input_schema");
    if (!took(one)) return std::nullopt;
    if (type != "custom")
      return refuse("tools", cat("`", where, "`: tools of type ", type,
                                 " are run by a server that is not here; "
                                 "custom ones are supported")),
             std::nullopt;
    if (!name || name->empty() || !schema)
      return fail("tools", cat("`", where, "` must have `name` and `input_schema`")), std::nullopt;
    json::object function{{"name", *name}};
    if (description) function["description"] = *description;
    function["parameters"] = *schema;
    return json::object{{"type", "function"}, {"function", std::move(function)}};
  }

  void read_tool_choice() {
    const json::object* given = fields_.object("tool_choice");
    if (!given) return;
    JsonFields choice(*given, "tool_choice.");
    const std::string type = choice.string("type", kMaxName).value_or("");
    const auto name = choice.string("name", kMaxName);
    if (choice.boolean("disable_parallel_tool_use").value_or(false)) chat_["parallel_tool_calls"] = false;
    if (!took(choice)) return;
    if (type == "auto" || type == "none") {
      chat_["tool_choice"] = type;
    } else if (type == "any") {
      chat_["tool_choice"] = "required";
    } else if (type == "tool" && name) {
      chat_["tool_choice"] = json::object{{"type", "function"}, {"function", {{"name", *name}}}};
    } else {
      fail("tool_choice", "`tool_choice.type` must be auto, any, none, or tool with a `name`");
    }
  }

  // ---- the answer

  // How long a model may think is not held: `budget_tokens` is read over.
  void read_thinking() {
    const json::object* kwargs = fields_.object("chat_template_kwargs");
    if (kwargs) chat_["chat_template_kwargs"] = *kwargs;
    const json::object* given = fields_.object("thinking");
    if (!given) return;
    JsonFields thinking(*given, "thinking.");
    const std::string type = thinking.string("type", kMaxName).value_or("");
    const std::string display = thinking.string("display", kMaxName).value_or("summarized");
    if (!took(thinking)) return;
    if (type == "between_tools") return;  // as the template has it
    if (type != "enabled" && type != "adaptive" && type != "disabled")
      return fail("thinking", "`thinking.type` must be enabled, adaptive, between_tools or disabled");
    if (type == "disabled" || display == "omitted") chat_["include_reasoning"] = false;
    json::value& values = chat_["chat_template_kwargs"];
    if (values.is_null()) values.emplace_object();
    values.get_object().emplace("enable_thinking", type != "disabled");
  }

  void read_output_config() {
    const json::object* format = fields_.object("output_format");  // as it was called first
    if (const json::object* config = fields_.object("output_config")) {
      JsonFields output(*config, "output_config.");
      if (const json::object* newer = output.object("format")) format = newer;
      output.accept({"effort"});
      if (!took(output)) return;
    }
    if (!format) return;
    const json::value* type = format->if_contains("type");
    const json::value* schema = format->if_contains("schema");
    if (!type || *type != "json_schema" || !schema || !schema->is_object())
      return fail("output_config", "`output_config.format` must have `type` json_schema and a `schema`");
    chat_["response_format"] = {{"type", "json_schema"},
                                {"json_schema", {{"name", "answer"}, {"schema", *schema}}}};
  }

  void refuse_servers() {
    for (const char* name : {"mcp_servers", "container"})
      if (const json::value* asked = fields_.any(name); asked && !is_empty(*asked))
        refuse(name, cat("`", name, "` is not supported"));
  }

  JsonFields fields_;
  const bool to_answer_;
  json::object chat_;
  ChatMessages messages_;
};

}  // namespace

std::expected<ChatBody, ApiError> messages_as_chat(const json::object& body, bool to_answer) {
  return MessagesReader(body, to_answer).read();
}

}  // namespace baton::coordinator
