#include "coordinator/gateway/chat_context.h"

#include <algorithm>
#include <boost/json.hpp>
#include <string_view>

#include "base/cat.h"
#include "coordinator/gateway/answer_grammar.h"
#include "coordinator/gateway/chat_body.h"

namespace baton::coordinator {
namespace {

namespace json = boost::json;

constexpr size_t kMaxTools = 256;
// A closed set: a template that writes '<|' + role + '|>' would make any control token of a role.
constexpr std::string_view kRoles[] = {"system", "developer", "user",   "assistant",
                                       "tool",   "function",  "ipython"};
// A turn that is all calls or a refusal, a tool that returns nothing.
constexpr std::string_view kMaySayNothing[] = {"assistant", "tool", "function", "ipython"};
// Fields of the request itself.
constexpr std::string_view kNoKwargs[] = {"messages", "tools", "documents", "add_generation_prompt",
                                          "continue_final_message"};

// A list of {"type":"text","text":...} as one text, parts on lines of their own.
std::optional<ApiError> join_parts(json::value& content, const std::string& where) {
  std::string text;
  for (size_t i = 0; i < content.get_array().size(); ++i) {
    const json::value& part = content.get_array()[i];
    const std::string name = cat(where, "[", i, "]");
    const json::value* type = part.is_object() ? part.get_object().if_contains("type") : nullptr;
    if (!part.is_object() || !type || !type->is_string())
      return invalid_value(where, cat("`", name, "` must be an object with a `type`"));
    if (type->get_string() != "text")
      return not_supported(where, cat("`", name, "`: only content parts of type text are supported"));
    const json::value* part_text = part.get_object().if_contains("text");
    if (!part_text || !part_text->is_string())
      return invalid_value(where, cat("`", name, ".text` must be a string"));
    if (i > 0) text += '\n';
    text += std::string_view(part_text->get_string());
  }
  content = json::string(text);
  return std::nullopt;
}

// Clients send the arguments of earlier calls as a JSON text; templates expect the object.
std::optional<ApiError> read_function(json::value* function, const std::string& where) {
  json::object* body = function ? function->if_object() : nullptr;
  if (!body) return invalid_value("messages", cat("`", where, "` must be an object with a `name`"));
  const json::value* name = body->if_contains("name");
  if (!name || !name->is_string() || name->get_string().empty())
    return invalid_value("messages", cat("`", where, ".name` must be a string"));
  json::value& arguments = (*body)["arguments"];
  if (arguments.is_null() || arguments == "") arguments = json::object();
  if (arguments.is_object()) return std::nullopt;
  if (!arguments.is_string())
    return invalid_value("messages", cat("`", where, ".arguments` must be a JSON text or an object"));
  json::error_code ec;
  json::parse_options options;
  options.max_depth = kJsonDepth;
  json::value parsed = json::parse(arguments.get_string(), ec, {}, options);
  if (!ec && parsed.is_object()) arguments = std::move(parsed);
  return std::nullopt;
}

// None is said by leaving the list out: templates ask whether there is one, some of them only that.
std::optional<ApiError> read_calls(json::object& message, const std::string& where) {
  json::value* calls = message.if_contains("tool_calls");
  if (!calls) return std::nullopt;
  if (!calls->is_null() && !calls->is_array())
    return invalid_value("messages", cat("`", where, ".tool_calls` must be a list"));
  if (calls->is_null() || calls->get_array().empty()) {
    message.erase("tool_calls");
    return std::nullopt;
  }
  for (size_t i = 0; i < calls->get_array().size(); ++i) {
    const std::string name = cat(where, ".tool_calls[", i, "]");
    json::object* call = calls->get_array()[i].if_object();
    if (!call) return invalid_value("messages", cat("`", name, "` must be an object with a `function`"));
    const json::value* type = call->if_contains("type");
    if (type && !type->is_null() && *type != "function")
      return not_supported("messages", cat("`", name, "`: only calls of type function are supported"));
    if (auto error = read_function(call->if_contains("function"), name + ".function")) return error;
  }
  return std::nullopt;
}

// What clients sent before there were tools; templates know the newer form only.
std::optional<ApiError> read_function_call(json::object& message, const std::string& where) {
  json::value* old = message.if_contains("function_call");
  if (!old) return std::nullopt;
  json::value function = std::move(*old);
  message.erase("function_call");
  if (function.is_null() || message.contains("tool_calls")) return std::nullopt;
  if (auto error = read_function(&function, where + ".function_call")) return error;
  json::object call;
  call["type"] = "function";
  call["function"] = std::move(function);
  message["tool_calls"].emplace_array().push_back(std::move(call));
  return std::nullopt;
}

std::optional<ApiError> read_content(json::object& message, const std::string& where) {
  json::value* content = message.if_contains("content");
  if (!content || content->is_null()) {
    if (std::ranges::count(kMaySayNothing, std::string_view(message["role"].get_string())) == 0)
      return invalid_value("messages", cat("`", where, ".content` is missing"));
    message["content"] = "";
  } else if (content->is_array()) {
    return join_parts(*content, cat(where, ".content"));
  } else if (!content->is_string()) {
    return invalid_value("messages", cat("`", where, ".content` must be a string or a list of parts"));
  }
  return std::nullopt;
}

// What a model thought in an earlier turn, under either of its names; templates read the first.
std::optional<ApiError> read_reasoning(json::object& message, const std::string& where) {
  for (const char* name : {"reasoning_content", "reasoning"}) {
    const json::value* given = message.if_contains(name);
    if (!given || given->is_null()) continue;
    if (!given->is_string())
      return invalid_value("messages", cat("`", where, ".", name, "` must be a string"));
    json::value text = *given;
    message["reasoning_content"] = std::move(text);
    break;
  }
  return std::nullopt;
}

std::optional<ApiError> read_message(json::value& message, size_t number) {
  const std::string where = cat("messages[", number, "]");
  if (!message.is_object()) return invalid_value("messages", cat("`", where, "` must be an object"));
  json::object& object = message.get_object();
  const json::value* role = object.if_contains("role");
  if (!role || !role->is_string())
    return invalid_value("messages", cat("`", where, ".role` must be a string"));
  if (std::ranges::count(kRoles, std::string_view(role->get_string())) == 0)
    return invalid_value("messages", cat("`", where, ".role` must be one of ", join(kRoles, ", ")));
  if (auto error = read_content(object, where)) return error;
  if (auto error = read_reasoning(object, where)) return error;
  if (auto error = read_calls(object, where)) return error;
  return read_function_call(object, where);
}

// Newer clients say developer where older ones say system; templates of models that were trained before would
// write it as a role the model has never seen. So with function, which older clients say and newer templates
// leave out.
void rename_role(json::value& message, const text::ModelText& model) {
  if (model.chat_template == nullptr) return;
  json::value& role = message.get_object()["role"];
  const std::string& source = model.chat_template->source();
  if (role == "developer" && !source.contains("developer")) role = "system";
  if (role == "function" && (source.contains("'tool'") || source.contains("\"tool\""))) role = "tool";
}

void read_messages(JsonFields& fields, const text::ModelText& model, json::object& context) {
  const json::array* given = fields.array("messages", kMaxMessages);
  if (!fields.ok()) return;
  if (!given || given->empty())
    return fields.fail(invalid_value("messages", "`messages` must be a list with at least one message"));
  json::array messages = *given;
  for (size_t i = 0; i < messages.size(); ++i) {
    if (auto error = read_message(messages[i], i)) return fields.fail(std::move(*error));
    rename_role(messages[i], model);
  }
  context["messages"] = std::move(messages);
}

// What a tool_choice object names.
void read_named_tool(JsonFields& fields, const json::object& choice, ChatContext& out) {
  const json::value* type = choice.if_contains("type");
  if (type && *type != "function")
    return fields.fail(not_supported("tool_choice", "`tool_choice`: only the type function is supported"));
  const json::value* function = choice.if_contains("function");
  const json::value* name =
      function && function->is_object() ? function->get_object().if_contains("name") : nullptr;
  if (!name || !name->is_string() || name->get_string().empty())
    return fields.fail(invalid_value("tool_choice", "`tool_choice.function.name` must be a string"));
  out.choice = ToolChoice::kNamed;
  out.named = name->get_string();
}

void read_tool_choice(JsonFields& fields, ChatContext& out) {
  const json::value* choice = fields.any("tool_choice");
  if (!choice || *choice == "auto") return;
  if (choice->is_object()) return read_named_tool(fields, choice->get_object(), out);
  if (*choice == "none") {
    out.choice = ToolChoice::kNone;
  } else if (*choice == "required") {
    out.choice = ToolChoice::kRequired;
  } else {
    fields.fail(
        invalid_value("tool_choice", "`tool_choice` must be \"auto\", \"none\", \"required\" or a tool"));
  }
}

std::optional<ApiError> check_tool(const json::value& tool, size_t number) {
  const std::string where = cat("tools[", number, "]");
  const json::object* object = tool.if_object();
  const json::value* type = object ? object->if_contains("type") : nullptr;
  if (type && *type != "function")
    return not_supported("tools", cat("`", where, "`: only tools of type function are supported"));
  const json::value* function = object ? object->if_contains("function") : nullptr;
  if (!function || !function->is_object())
    return invalid_value("tools", cat("`", where, "` must be an object with a `function`"));
  const json::value* name = function->get_object().if_contains("name");
  if (!name || !name->is_string() || name->get_string().empty())
    return invalid_value("tools", cat("`", where, ".function.name` must be a string"));
  const json::value* parameters = function->get_object().if_contains("parameters");
  if (parameters && !parameters->is_object() && !parameters->is_null())
    return invalid_value("tools", cat("`", where, ".function.parameters` must be an object"));
  return std::nullopt;
}

// A template without a place for tools would leave them out without a word.
std::optional<ApiError> check_syntax(text::ToolSyntax syntax) {
  if (syntax == text::ToolSyntax::kNone)
    return not_supported("tools",
                         "`tools`: this model's chat template takes no tools. Leave them out, or set "
                         "`tool_choice` to \"none\"");
  if (syntax == text::ToolSyntax::kUnknown)
    return not_supported("tools",
                         "`tools`: this model writes calls in a form that is not read here (read are Hermes "
                         "and Qwen <tool_call>, Mistral [TOOL_CALLS], Llama 3 JSON). Set `tool_choice` to "
                         "\"none\"");
  return std::nullopt;
}

// Every list of tools was checked: they have names.
bool is_named(const json::value& tool, std::string_view name) {
  return std::string_view(tool.at("function").at("name").get_string()) == name;
}

std::optional<ApiError> check_choice(const ChatContext& chat, const json::array* tools) {
  const bool forced = chat.choice == ToolChoice::kRequired || chat.choice == ToolChoice::kNamed;
  if (!forced) return std::nullopt;
  if (!tools || tools->empty())
    return invalid_value("tool_choice", "`tool_choice` asks for a call, and there are no `tools`");
  const auto named = [&](const json::value& tool) { return is_named(tool, chat.named); };
  if (chat.choice == ToolChoice::kNamed && std::ranges::none_of(*tools, named))
    return invalid_value("tool_choice", cat("`tool_choice`: there is no tool `", chat.named, "`"));
  return std::nullopt;
}

void read_tools(JsonFields& fields, text::ToolSyntax syntax, ChatContext& out, json::object& context) {
  read_tool_choice(fields, out);
  const json::array* tools = fields.array("tools", kMaxTools);
  if (!fields.ok()) return;
  for (size_t i = 0; tools && i < tools->size(); ++i)
    if (auto error = check_tool((*tools)[i], i)) return fields.fail(std::move(*error));
  if (auto error = check_choice(out, tools)) return fields.fail(std::move(*error));
  if (!tools || tools->empty() || out.choice == ToolChoice::kNone) return;
  if (auto error = check_syntax(syntax)) return fields.fail(std::move(*error));
  context["tools"] = *tools;
  out.tools = true;
}

void read_kwargs(JsonFields& fields, json::object& context) {
  const json::object* extra = fields.object("chat_template_kwargs");
  if (!extra) return;
  for (const auto& member : *extra) {
    const std::string_view key(member.key().data(), member.key().size());
    if (std::ranges::count(kNoKwargs, key) > 0)
      return fields.fail(invalid_value(
          "chat_template_kwargs",
          cat("`chat_template_kwargs.", key, "` is not allowed here: it is a field of the request itself")));
    context[member.key()] = member.value();
  }
}

// The answer goes on with the last message (text/rust/src/chat.rs).
void read_begun_answer(JsonFields& fields, ChatContext& out, json::object& context) {
  if (!fields.boolean("continue_final_message").value_or(false) || !fields.ok()) return;
  const json::object& last = context["messages"].get_array().back().get_object();
  if (last.at("role") != "assistant" || last.contains("tool_calls"))
    return fields.fail(invalid_value(
        "continue_final_message",
        "`continue_final_message`: the last of `messages` must be an assistant's, without `tool_calls`"));
  if (const json::value* thoughts = last.if_contains("reasoning_content"); thoughts && !is_empty(*thoughts))
    return fields.fail(
        not_supported("continue_final_message",
                      "an answer cannot be begun with thoughts: the last of `messages` has some"));
  out.begun = true;
  context["continue_final_message"] = true;
}

}  // namespace

ChatContext read_chat_context(JsonFields& fields, const text::ModelText& model) {
  ChatContext out;
  json::object context;
  read_messages(fields, model, context);
  read_tools(fields, model.tool_syntax, out, context);
  if (const json::array* documents = fields.array("documents", kMaxMessages))
    context["documents"] = *documents;
  context["add_generation_prompt"] = fields.boolean("add_generation_prompt").value_or(true);
  read_kwargs(fields, context);
  read_begun_answer(fields, out, context);
  if (fields.any("chat_template"))
    fields.fail(
        not_supported("chat_template", "templates of clients are not accepted; the model's own is used"));
  out.json = json::serialize(context);
  return out;
}

std::vector<text::ToolSignature> tool_signatures(JsonFields& fields, const ChatContext& chat) {
  std::vector<text::ToolSignature> out;
  for (const json::value& tool : *fields.array("tools", kMaxTools)) {
    if (chat.choice == ToolChoice::kNamed && !is_named(tool, chat.named)) continue;
    const json::object& function = tool.at("function").get_object();
    const json::value* parameters = function.if_contains("parameters");
    json::object schema = parameters && parameters->is_object() ? parameters->get_object() : json::object();
    schema["type"] = "object";  // arguments are nothing else
    out.push_back({std::string(function.at("name").get_string()), one_line_schema(std::move(schema))});
  }
  return out;
}

}  // namespace baton::coordinator
