#include "coordinator/gateway/responses_request.h"

#include <algorithm>
#include <boost/json.hpp>

#include "base/cat.h"
#include "coordinator/gateway/json_fields.h"

namespace baton::coordinator {
namespace {

namespace json = boost::json;

constexpr size_t kMaxTools = 256;
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
                                     "stop",
                                     "logit_bias",
                                     "min_tokens",
                                     "ignore_eos",
                                     "cache_salt",
                                     "stop_token_ids",
                                     "presence_penalty",
                                     "skip_special_tokens",
                                     "frequency_penalty",
                                     "repetition_penalty",
                                     "parallel_tool_calls"};
constexpr std::string_view kRoles[] = {"user", "assistant", "system", "developer"};

class ResponsesReader {
 public:
  explicit ResponsesReader(const json::object& body) : fields_(body) {}

  std::expected<ChatBody, ApiError> read() {
    for (const char* name : kAsInChat)
      if (const json::value* value = fields_.any(name)) chat_[name] = *value;
    if (const auto most = fields_.integer("max_output_tokens", 1, INT32_MAX)) chat_["max_tokens"] = *most;
    if (const auto text = fields_.string("instructions", kMaxText)) messages_.add_text("system", *text);
    read_input();
    read_tools();
    read_tool_choice();
    read_text();
    read_reasoning();
    refuse_what_is_kept();
    read_include();
    fields_.accept({"metadata", "store", "stream_options", "truncation", "user", "service_tier",
                    "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "safety_identifier",
                    "max_tool_calls", "context_management"});
    if (!fields_.ok()) return std::unexpected(*fields_.error());
    chat_["messages"] = messages_.take();
    return ChatBody{std::move(chat_), fields_.unknown_fields(), told()};
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

  // ---- input

  void read_input() {
    const json::value* input = fields_.any("input");
    if (!fields_.ok()) return;
    if (input && input->is_string()) return messages_.add_text("user", input->get_string());
    const json::array* items = fields_.array("input", kMaxMessages - 1);
    if (!items || items->empty())
      return fail("input", "`input` must be a string or a list of at least one item");
    for (size_t i = 0; i < items->size() && fields_.ok(); ++i) read_item((*items)[i], cat("input[", i, "]"));
  }

  void read_item(const json::value& item, const std::string& where) {
    if (!item.is_object()) return fail("input", cat("`", where, "` must be an object"));
    JsonFields one(item.get_object(), where + ".");
    const std::string type = one.string("type", kMaxName).value_or("message");
    if (!took(one)) return;
    if (type == "message") return read_message(one, where);
    if (type == "function_call") return read_call(one, where);
    if (type == "function_call_output") return read_result(one, where);
    if (type == "reasoning") return read_thoughts(one, where);
    refuse("input",
           cat("`", where, "`: items of type ", type,
               " are not supported here; message, function_call, function_call_output and reasoning are"));
  }

  void read_message(JsonFields& one, const std::string& where) {
    const std::string role = one.string("role", kMaxName).value_or("");
    const json::value* content = one.any("content");
    if (!took(one)) return;
    if (std::ranges::count(kRoles, role) == 0)
      return fail("input", cat("`", where, ".role` must be one of ", join(kRoles, ", ")));
    if (!content) return fail("input", cat("`", where, ".content` is missing"));
    if (content->is_string()) return messages_.add_text(role, content->get_string());
    messages_.begin(role);
    const auto parts = text_parts(*content, where + ".content");
    for (size_t i = 0; parts && i < parts->size(); ++i)
      messages_.add_text(role, (*parts)[i].at("text").get_string());
  }

  // The parts of a message, a tool's output or what was thought, as text parts of a chat.
  std::optional<json::array> text_parts(const json::value& content, const std::string& where) {
    constexpr std::string_view kTexts[] = {"input_text", "output_text", "text", "reasoning_text"};
    const json::array* given = content.if_array();
    if (!given) return fail("input", cat("`", where, "` must be a string or a list of parts")), std::nullopt;
    json::array parts;
    for (size_t i = 0; i < given->size(); ++i) {
      const std::string name = cat(where, "[", i, "]");
      if (!(*given)[i].is_object()) return fail("input", cat("`", name, "` must be an object")), std::nullopt;
      JsonFields part((*given)[i].get_object(), name + ".");
      const std::string type = part.string("type", kMaxName).value_or("");
      const bool is_text = std::ranges::count(kTexts, type) > 0;
      const auto text = is_text             ? part.string("text", kMaxText)
                        : type == "refusal" ? part.string("refusal", kMaxText)
                                            : std::nullopt;
      if (!took(part)) return std::nullopt;
      if (!is_text && type != "refusal")
        return refuse("input", cat("`", name, "`: parts of type ", type.empty() ? "(missing)" : type,
                                   " are not supported here; text is")),
               std::nullopt;
      if (!text) return fail("input", cat("`", name, ".text` must be a string")), std::nullopt;
      parts.push_back(text_part(*text));
    }
    return parts;
  }

  void read_call(JsonFields& one, const std::string& where) {
    const std::string id = one.string("call_id", kMaxName).value_or("");
    const std::string name = one.string("name", kMaxName).value_or("");
    const std::string arguments = one.string("arguments", kMaxText).value_or("{}");
    if (!took(one)) return;
    if (id.empty() || name.empty()) return fail("input", cat("`", where, "` must have `call_id` and `name`"));
    messages_.add_call(id, name, json::value(arguments));
  }

  void read_result(JsonFields& one, const std::string& where) {
    const std::string id = one.string("call_id", kMaxName).value_or("");
    const json::value* output = one.any("output");
    if (!took(one)) return;
    if (id.empty() || !output) return fail("input", cat("`", where, "` must have `call_id` and `output`"));
    if (output->is_string()) return messages_.add_result(id, *output);
    if (auto parts = text_parts(*output, where + ".output")) messages_.add_result(id, *std::move(parts));
  }

  // What comes back from another server may be encrypted or summarised: only the text itself is of use.
  void read_thoughts(JsonFields& one, const std::string& where) {
    const json::value* content = one.any("content");
    if (!took(one) || !content) return;
    const auto parts = text_parts(*content, where + ".content");
    for (size_t i = 0; parts && i < parts->size(); ++i)
      messages_.add_thoughts((*parts)[i].at("text").get_string());
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
    const std::string type = one.string("type", kMaxName).value_or("");
    const auto name = one.string("name", kMaxName);
    const auto description = one.string("description", kMaxText);
    const json::object* parameters = one.object("parameters");
    if (!took(one)) return std::nullopt;
    if (type != "function")
      return refuse("tools", cat("`", where, "`: tools of type ", type.empty() ? "(missing)" : type,
                                 " are not supported here; functions are")),
             std::nullopt;
    if (!name || name->empty())
      return fail("tools", cat("`", where, ".name` must be a string")), std::nullopt;
    json::object function{{"name", *name}};
    if (description) function["description"] = *description;
    if (parameters) function["parameters"] = *parameters;
    return json::object{{"type", "function"}, {"function", std::move(function)}};
  }

  void read_tool_choice() {
    const json::value* choice = fields_.any("tool_choice");
    if (!choice) return;
    if (!choice->is_object()) {
      chat_["tool_choice"] = *choice;
      return;
    }
    JsonFields one(choice->get_object(), "tool_choice.");
    const std::string type = one.string("type", kMaxName).value_or("");
    const auto name = one.string("name", kMaxName);
    if (!took(one)) return;
    if (type != "function" || !name)
      return refuse("tool_choice",
                    "`tool_choice` must be \"auto\", \"none\", \"required\" or a function's name");
    chat_["tool_choice"] = json::object{{"type", "function"}, {"function", {{"name", *name}}}};
  }

  // ---- the answer

  void read_text() {
    const json::object* text = fields_.object("text");
    if (!text) return;
    JsonFields one(*text, "text.");
    const json::object* format = one.object("format");
    one.accept({"verbosity"});
    if (!took(one) || !format) return;
    const json::value* type = format->if_contains("type");
    if (!type || *type != "json_schema") {
      chat_["response_format"] = *format;
      return;
    }
    json::object schema = *format;  // name, schema and strict stand beside the type
    schema.erase("type");
    chat_["response_format"] = {{"type", "json_schema"}, {"json_schema", std::move(schema)}};
  }

  void read_reasoning() {
    if (const json::object* given = fields_.object("chat_template_kwargs"))
      chat_["chat_template_kwargs"] = *given;
    const json::object* reasoning = fields_.object("reasoning");
    if (!reasoning) return;
    JsonFields one(*reasoning, "reasoning.");
    const auto effort = one.string("effort", kMaxName);
    if (!took(one) || !effort) return;
    json::value& values = chat_["chat_template_kwargs"];
    if (values.is_null()) values.emplace_object();
    values.get_object().emplace("reasoning_effort", *effort);
    values.get_object().emplace("enable_thinking", *effort != "none");
  }

  void read_include() {
    const json::array* include = fields_.array("include", 64);
    for (size_t i = 0; include && i < include->size(); ++i)
      if ((*include)[i] == "message.output_text.logprobs")
        refuse("include", "`include`: log probabilities are not told here; chat completions tell them");
    if (fields_.integer("top_logprobs", 0, 20).value_or(0) > 0)
      refuse("top_logprobs", "`top_logprobs` is not supported here; chat completions tell log probabilities");
  }

  void refuse_what_is_kept() {
    for (const char* name : {"previous_response_id", "conversation", "prompt"})
      if (const json::value* asked = fields_.any(name); asked && !is_empty(*asked))
        refuse(name, cat("`", name, "` is not supported: nothing is kept here; send the whole `input`"));
    if (fields_.boolean("background").value_or(false))
      refuse("background", "`background` is not supported: answers are made while the client waits");
  }

  // As the client said it, with the defaults of what it did not.
  std::string told() {
    const auto or_else = [&](const char* name, json::value otherwise) {
      const json::value* given = fields_.any(name);
      return given ? *given : std::move(otherwise);
    };
    json::object out;
    for (const char* name : {"instructions", "max_output_tokens", "max_tool_calls", "user"})
      out[name] = or_else(name, nullptr);
    out["metadata"] = or_else("metadata", json::object());
    out["parallel_tool_calls"] = or_else("parallel_tool_calls", true);
    out["temperature"] = or_else("temperature", 1.0);
    out["top_p"] = or_else("top_p", 1.0);
    out["tools"] = or_else("tools", json::array());
    out["tool_choice"] = or_else("tool_choice", "auto");
    out["text"] = or_else("text", {{"format", {{"type", "text"}}}});
    out["reasoning"] = or_else("reasoning", {{"effort", nullptr}, {"summary", nullptr}});
    out["truncation"] = or_else("truncation", "disabled");
    const std::string text = json::serialize(out);
    return text.substr(1, text.size() - 2);
  }

  JsonFields fields_;
  json::object chat_;
  ChatMessages messages_;
};

}  // namespace

std::expected<ChatBody, ApiError> responses_as_chat(const json::object& body) {
  return ResponsesReader(body).read();
}

}  // namespace baton::coordinator
