#include "coordinator/gateway/messages_answer.h"

#include <boost/json.hpp>

#include "base/cat.h"

namespace baton::coordinator {
namespace {

std::string event(std::string_view name, JsonWriter& w) {
  return cat("event: ", name, "\ndata: ", w.take(), "\n\n");
}

// Input that was found in the cache is not part of input_tokens.
void write_usage(JsonWriter& w, const AnswerUsage& usage, bool thinks) {
  w.key("usage").open('{').field("input_tokens", usage.prompt_tokens - usage.cached_tokens);
  w.field("cache_creation_input_tokens", 0).field("cache_read_input_tokens", usage.cached_tokens);
  w.field("output_tokens", usage.completion_tokens);
  if (thinks)
    w.key("output_tokens_details").open('{').field("thinking_tokens", usage.reasoning_tokens).close('}');
  w.close('}');
}

std::string_view stop_reason(std::string_view finish_reason, bool by_string, bool less_room) {
  if (finish_reason == "length") return less_room ? "model_context_window_exceeded" : "max_tokens";
  if (finish_reason == "tool_calls") return "tool_use";
  return by_string ? "stop_sequence" : "end_turn";
}

bool is_object(const std::string& text) {
  boost::json::error_code ec;
  boost::json::parse_options options;
  options.max_depth = 256;  // deeper than any schema that was taken
  const auto value = boost::json::parse(text, ec, {}, options);
  return !ec && value.is_object();
}

}  // namespace

void MessagesAnswer::write_head(JsonWriter& w) const {
  w.field("id", cat("msg_", id_)).field("type", "message").field("role", "assistant");
  w.field("model", plan_.model);
}

void MessagesAnswer::write_stop(JsonWriter& w, const ChoicePart& part) const {
  const auto* text = std::get_if<std::string>(&part.stop_cause);
  w.field("stop_reason", stop_reason(part.finish_reason, text != nullptr, plan_.less_room));
  w.key("stop_sequence");
  text ? w.value(*text) : w.null();
}

void MessagesAnswer::write_tool_use(JsonWriter& w, const text::ToolCallPiece& call,
                                    std::string_view input) const {
  w.open('{').field("type", "tool_use").field("id", tool_call_id(id_, 0, call.index));
  w.field("name", call.name).key("input").raw(input).close('}');
}

void MessagesAnswer::open(Block kind, const text::ToolCallPiece* call, std::string& out) {
  close(out);
  block_ = kind;
  JsonWriter w;
  w.open('{').field("type", "content_block_start").field("index", index_).key("content_block");
  if (kind == Block::kThinking) {
    w.open('{').field("type", "thinking").field("thinking", "").field("signature", "").close('}');
  } else if (kind == Block::kText) {
    w.open('{').field("type", "text").field("text", "").close('}');
  } else {
    write_tool_use(w, *call, "{}");
  }
  w.close('}');
  out += event("content_block_start", w);
}

void MessagesAnswer::close(std::string& out) {
  if (block_ == Block::kNone) return;
  block_ = Block::kNone;
  JsonWriter w;
  w.open('{').field("type", "content_block_stop").field("index", index_++).close('}');
  out += event("content_block_stop", w);
}

void MessagesAnswer::delta(std::string_view type, std::string_view name, std::string_view text,
                           std::string& out) const {
  JsonWriter w;
  w.open('{').field("type", "content_block_delta").field("index", index_);
  w.key("delta").open('{').field("type", type).field(name, text).close('}').close('}');
  out += event("content_block_delta", w);
}

void MessagesAnswer::add_input(std::string_view json, std::string& out) const {
  if (block_ == Block::kToolUse && !json.empty()) delta("input_json_delta", "partial_json", json, out);
}

std::string MessagesAnswer::begin(std::span<const AnswerUsage> so_far) {
  JsonWriter w;
  w.open('{').field("type", "message_start").key("message").open('{');
  write_head(w);
  w.key("content").open('[').close(']').key("stop_reason").null().key("stop_sequence").null();
  write_usage(w, so_far[0], thinks());
  w.close('}').close('}');
  return event("message_start", w);
}

std::string MessagesAnswer::part(const ChoicePart& part, const AnswerUsage& so_far, const AnswerTimings*) {
  std::string out;
  const auto rest = rest_of_call(part);
  for (const text::ToolCallPiece& call : rest) add_input(call.arguments, out);
  if (!part.reasoning.empty()) {
    if (block_ != Block::kThinking) open(Block::kThinking, nullptr, out);
    delta("thinking_delta", "thinking", part.reasoning, out);
  }
  if (!part.text.empty()) {
    if (block_ != Block::kText) open(Block::kText, nullptr, out);
    delta("text_delta", "text", part.text, out);
  }
  for (const text::ToolCallPiece& call : part.calls.subspan(rest.size())) {
    if (!call.name.empty()) open(Block::kToolUse, &call, out);
    add_input(call.arguments, out);
  }
  if (part.finish_reason.empty()) return out;
  close(out);
  JsonWriter w;
  w.open('{').field("type", "message_delta").key("delta").open('{');
  write_stop(w, part);
  w.close('}');
  write_usage(w, so_far, thinks());
  w.close('}');
  return out + event("message_delta", w);
}

std::string MessagesAnswer::end(const AnswerUsage&, const AnswerTimings&) {
  JsonWriter w;
  w.open('{').field("type", "message_stop").close('}');
  return event("message_stop", w);
}

std::string MessagesAnswer::error(const ApiError& error) const {
  return cat("event: error\ndata: ", messages_error_json(error, id_), "\n\n");
}

// A call that was cut off among its arguments has no input that could be said, and is left out.
std::string MessagesAnswer::unary(std::span<const ChoicePart> parts, const AnswerUsage& usage,
                                  const AnswerTimings&) {
  const ChoicePart& part = parts[0];
  JsonWriter w;
  w.open('{');
  write_head(w);
  w.key("content").open('[');
  if (!part.reasoning.empty())
    w.open('{').field("type", "thinking").field("thinking", part.reasoning).field("signature", "").close('}');
  if (!part.text.empty()) w.open('{').field("type", "text").field("text", part.text).close('}');
  for (const text::ToolCallPiece& call : part.calls)
    if (is_object(call.arguments)) write_tool_use(w, call, call.arguments);
  w.close(']');
  write_stop(w, part);
  write_usage(w, usage, thinks());
  w.close('}');
  return w.take();
}

}  // namespace baton::coordinator
