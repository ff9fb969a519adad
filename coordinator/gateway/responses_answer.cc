#include "coordinator/gateway/responses_answer.h"

#include "base/cat.h"

namespace baton::coordinator {
namespace {

constexpr std::string_view kInProgress = "in_progress";

void write_usage(JsonWriter& w, const AnswerUsage& usage) {
  w.open('{').field("input_tokens", usage.prompt_tokens);
  w.key("input_tokens_details").open('{').field("cached_tokens", usage.cached_tokens);
  w.field("cache_write_tokens", 0).close('}').field("output_tokens", usage.completion_tokens);
  w.key("output_tokens_details").open('{').field("reasoning_tokens", usage.reasoning_tokens).close('}');
  w.field("total_tokens", usage.prompt_tokens + usage.completion_tokens).close('}');
}

}  // namespace

// ---- objects

void ResponsesAnswer::write_content(JsonWriter& w, const Item& item, std::string_view text) {
  w.open('{')
      .field("type", item.kind == Kind::kReasoning ? "reasoning_text" : "output_text")
      .field("text", text);
  if (item.kind == Kind::kMessage) w.key("annotations").raw("[]").key("logprobs").raw("[]");
  w.close('}');
}

// An open item has no content yet: its parts are added by events.
void ResponsesAnswer::write_item(JsonWriter& w, const Item& item) const {
  w.open('{').field("id", item.id);
  if (item.kind == Kind::kFunctionCall) {
    w.field("type", "function_call").field("call_id", tool_call_id(id_, 0, item.call.index));
    w.field("name", item.call.name).field("arguments", item.text);
  } else {
    w.field("type", item.kind == Kind::kReasoning ? "reasoning" : "message");
    item.kind == Kind::kReasoning ? w.key("summary").raw("[]") : w.field("role", "assistant");
    w.key("content").open('[');
    if (item.status != kInProgress) write_content(w, item, item.text);
    w.close(']');
  }
  w.field("status", item.status).close('}');
}

std::string ResponsesAnswer::response(std::string_view status, const AnswerUsage* usage,
                                      const ApiError* error) const {
  JsonWriter w;
  w.open('{').field("id", cat("resp_", id_)).field("object", "response").field("created_at", created_);
  w.field("status", status).field("background", false).key("error");
  error ? w.open('{')
              .field("code", error->status == 429 ? "rate_limit_exceeded" : "server_error")
              .field("message", error->message)
              .close('}')
        : w.null();
  w.key("incomplete_details");
  status == "incomplete" ? w.open('{').field("reason", "max_output_tokens").close('}') : w.null();
  w.field("model", plan_.model).key("output").open('[');
  for (const Item& item : items_) write_item(w, item);
  w.close(']').key("previous_response_id").null().field("store", false).raw(plan_.told).key("usage");
  usage ? write_usage(w, *usage) : (void)w.null();
  w.close('}');
  return w.take();
}

// ---- events

std::string ResponsesAnswer::event(std::string_view type, JsonWriter& w) const {
  w.close('}');
  return cat("event: ", type, "\ndata: ", w.take(), "\n\n");
}

JsonWriter ResponsesAnswer::of_item(std::string_view type) {
  JsonWriter w;
  w.open('{').field("type", type).field("sequence_number", sequence_++);
  w.field("output_index", items_.size() - 1);
  return w;
}

std::string ResponsesAnswer::response_event(std::string_view type, const std::string& response) {
  JsonWriter w;
  w.open('{').field("type", type).field("sequence_number", sequence_++).key("response").raw(response);
  return event(type, w);
}

std::string ResponsesAnswer::begin(std::span<const AnswerUsage>) {
  const std::string now = response(kInProgress, nullptr, nullptr);
  std::string out = response_event("response.created", now);
  return out += response_event("response.in_progress", now);
}

// The open item of that kind, or a new one; each call is its own.
ResponsesAnswer::Item& ResponsesAnswer::item(Kind kind, const text::ToolCallPiece* call, std::string& out) {
  const bool open = !items_.empty() && items_.back().status == kInProgress;
  if (open && items_.back().kind == kind && call == nullptr) return items_.back();
  close("completed", out);
  constexpr std::string_view kPrefix[] = {"rs_", "msg_", "fc_"};
  Item& added = items_.emplace_back(Item{.kind = kind, .status = kInProgress});
  added.id = cat(kPrefix[static_cast<size_t>(kind)], id_, "_", items_.size() - 1);
  if (call) added.call = {.index = call->index, .name = call->name, .arguments = ""};
  JsonWriter w = of_item("response.output_item.added");
  write_item(w.key("item"), added);
  out += event("response.output_item.added", w);
  if (call) return added;
  w = of_item("response.content_part.added");
  write_content(w.field("item_id", added.id).field("content_index", 0).key("part"), added, "");
  out += event("response.content_part.added", w);
  return added;
}

void ResponsesAnswer::add(Item& item, std::string_view text, std::string& out) {
  if (text.empty()) return;
  item.text += text;
  const std::string_view type = item.kind == Kind::kReasoning ? "response.reasoning_text.delta"
                                : item.kind == Kind::kMessage ? "response.output_text.delta"
                                                              : "response.function_call_arguments.delta";
  JsonWriter w = of_item(type);
  w.field("item_id", item.id);
  if (item.kind != Kind::kFunctionCall) w.field("content_index", 0);
  w.field("delta", text);
  if (item.kind == Kind::kMessage) w.key("logprobs").raw("[]");
  out += event(type, w);
}

void ResponsesAnswer::add_arguments(std::string_view json, std::string& out) {
  const bool open = !items_.empty() && items_.back().status == kInProgress;
  if (open && items_.back().kind == Kind::kFunctionCall) add(items_.back(), json, out);
}

void ResponsesAnswer::close(std::string_view status, std::string& out) {
  if (items_.empty() || items_.back().status != kInProgress) return;
  Item& item = items_.back();
  item.status = status;
  const std::string_view type = item.kind == Kind::kReasoning ? "response.reasoning_text.done"
                                : item.kind == Kind::kMessage ? "response.output_text.done"
                                                              : "response.function_call_arguments.done";
  JsonWriter w = of_item(type);
  w.field("item_id", item.id);
  if (item.kind == Kind::kFunctionCall) {
    w.field("name", item.call.name).field("arguments", item.text);
  } else {
    w.field("content_index", 0).field("text", item.text);
    if (item.kind == Kind::kMessage) w.key("logprobs").raw("[]");
  }
  out += event(type, w);
  if (item.kind != Kind::kFunctionCall) {
    w = of_item("response.content_part.done");
    write_content(w.field("item_id", item.id).field("content_index", 0).key("part"), item, item.text);
    out += event("response.content_part.done", w);
  }
  w = of_item("response.output_item.done");
  write_item(w.key("item"), item);
  out += event("response.output_item.done", w);
}

std::string ResponsesAnswer::part(const ChoicePart& part, const AnswerUsage&, const AnswerTimings*) {
  std::string out;
  const auto rest = rest_of_call(part);
  for (const text::ToolCallPiece& call : rest) add_arguments(call.arguments, out);
  if (!part.reasoning.empty()) add(item(Kind::kReasoning, nullptr, out), part.reasoning, out);
  if (!part.text.empty()) add(item(Kind::kMessage, nullptr, out), part.text, out);
  for (const text::ToolCallPiece& call : part.calls.subspan(rest.size())) {
    if (!call.name.empty()) item(Kind::kFunctionCall, &call, out);
    add_arguments(call.arguments, out);
  }
  if (part.finish_reason.empty()) return out;
  cut_off_ = part.finish_reason == "length";
  close(final_status(), out);
  return out;
}

std::string ResponsesAnswer::end(const AnswerUsage& usage, const AnswerTimings&) {
  return response_event(cat("response.", final_status()), response(final_status(), &usage, nullptr));
}

std::string ResponsesAnswer::error(const ApiError& error) const {
  JsonWriter w;
  w.open('{').field("type", "response.failed").field("sequence_number", sequence_);
  w.key("response").raw(response("failed", nullptr, &error));
  return event("response.failed", w);
}

std::string ResponsesAnswer::unary(std::span<const ChoicePart> parts, const AnswerUsage& usage,
                                   const AnswerTimings&) {
  part(parts[0], usage, nullptr);  // makes the items, as a stream does
  return response(final_status(), &usage, nullptr);
}

}  // namespace baton::coordinator
