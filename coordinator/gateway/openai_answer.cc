#include "coordinator/gateway/openai_answer.h"

#include <algorithm>

#include "base/cat.h"

namespace baton::coordinator {
namespace {

double milliseconds(Duration d) { return to_seconds(d) * 1e3; }

void write_usage(JsonWriter& w, const AnswerUsage& usage, bool thinks) {
  w.key("usage").open('{');
  w.field("prompt_tokens", usage.prompt_tokens).field("completion_tokens", usage.completion_tokens);
  w.field("total_tokens", usage.prompt_tokens + usage.completion_tokens);
  w.key("prompt_tokens_details").open('{').field("cached_tokens", usage.cached_tokens).close('}');
  if (thinks)
    w.key("completion_tokens_details").open('{').field("reasoning_tokens", usage.reasoning_tokens).close('}');
  w.close('}');
}

// `timed`: the tokens that were made in `time`.
void write_rate(JsonWriter& w, const char* kind, int32_t timed, Duration time) {
  w.field(cat(kind, "_ms"), milliseconds(time));
  const double seconds = to_seconds(time);
  w.field(cat(kind, "_per_token_ms"), timed > 0 ? seconds * 1e3 / timed : 0.0);
  w.field(cat(kind, "_per_second"), timed > 0 && seconds > 0 ? timed / seconds : 0.0);
}

void write_timings(JsonWriter& w, const AnswerUsage& usage, const AnswerTimings& t) {
  w.key("timings").open('{').field("cache_n", usage.cached_tokens);
  const int32_t computed = usage.prompt_tokens - usage.cached_tokens;
  w.field("prompt_n", computed);
  write_rate(w, "prompt", computed, t.has_stages ? t.stages.prefill : t.ttft);
  // The time begins when the first token is there: 11 tokens in 2 s are 5 a second.
  w.field("predicted_n", usage.completion_tokens);
  write_rate(w, "predicted", usage.completion_tokens - 1, t.generation);
  w.field("ttft_ms", milliseconds(t.ttft)).field("path", t.verdict.path);
  if (t.verdict.moves > 0) w.field("moves", t.verdict.moves);
  if (t.has_stages) {
    w.field("queue_ms", milliseconds(t.stages.queue)).field("reserve_ms", milliseconds(t.stages.reserve));
    w.field("worker_queue_ms", milliseconds(t.stages.worker_queue));
    w.field("prefill_ms", milliseconds(t.stages.prefill))
        .field("transfer_ms", milliseconds(t.stages.transfer));
    w.field("transfer_exposed_ms", milliseconds(t.stages.transfer_exposed));
  }
  w.close('}');
}

void write_ids(JsonWriter& w, std::string_view name, const std::vector<TokenId>& ids) {
  w.key(name).open('[');
  for (const TokenId id : ids) w.value(id);
  w.close(']');
}

}  // namespace

OpenAiAnswer::OpenAiAnswer(const text::Tokenizer& tokenizer, const GenerationPlan& plan, std::string id,
                           int64_t created)
    : tokenizer_(tokenizer),
      plan_(plan),
      id_(std::move(id)),
      created_(created),
      event_head_(begin_event()),
      text_offsets_(plan.requests.size()) {}

std::string OpenAiAnswer::begin_event() const {
  JsonWriter w;
  w.open('{');
  write_head(w, "chat.completion.chunk");
  return cat("data: ", w.text());
}

std::string OpenAiAnswer::end_event(JsonWriter& w) { return w.take() + "\n\n"; }

void OpenAiAnswer::write_head(JsonWriter& w, std::string_view chat_object) const {
  w.field("id", cat(chat() ? "chatcmpl-" : "cmpl-", id_));
  w.field("object", chat() ? chat_object : std::string_view("text_completion"));
  w.field("created", created_).field("model", plan_.model).field("system_fingerprint", plan_.fingerprint);
}

void OpenAiAnswer::write_logprobs(JsonWriter& w, const ChoicePart& part) {
  w.key("logprobs");
  if (!plan_.logprobs || (part.tokens.empty() && part.prompt_tokens.empty())) {
    w.null();
  } else if (chat()) {
    write_chat_logprobs(w, tokenizer_, part.tokens, plan_.top_logprobs);
  } else {
    size_t& offset = text_offsets_[static_cast<size_t>(part.index)];
    const size_t prompt_size = plan_.requests[static_cast<size_t>(part.index)].prompt.size();
    write_completion_logprobs(w, tokenizer_,
                              {.prompt = part.prompt_tokens,
                               .tokens = part.tokens,
                               .prompt_begins_text = part.prompt_tokens.size() == prompt_size,
                               .top = plan_.top_logprobs},
                              offset);
  }
}

void OpenAiAnswer::write_finish(JsonWriter& w, const ChoicePart& part) const {
  w.key("finish_reason");
  part.finish_reason.empty() ? w.null() : w.value(part.finish_reason);
  if (!part.finish_reason.empty()) {
    w.key("stop_reason");
    if (const auto* text = std::get_if<std::string>(&part.stop_cause)) {
      w.value(*text);
    } else if (const auto* id = std::get_if<TokenId>(&part.stop_cause)) {
      w.value(*id);
    } else {
      w.null();
    }
  }
}

void OpenAiAnswer::write_text(JsonWriter& w, const ChoicePart& part, bool whole) const {
  if (!chat()) {
    w.field("text", part.text);
  } else if (whole) {
    w.key("message").open('{').field("role", "assistant").key("content");
    part.text.empty() && (!part.calls.empty() || !part.reasoning.empty()) ? w.null() : w.value(part.text);
    write_reasoning(w, part);
    write_calls(w, part, true);
    w.close('}');
  } else {
    w.key("delta").open('{');
    if (!part.text.empty() || (part.finish_reason.empty() && part.calls.empty() && part.reasoning.empty()))
      w.field("content", part.text);
    write_reasoning(w, part);
    write_calls(w, part, false);
    w.close('}');
  }
}

// Under both of its names: DeepSeek's, SGLang's and llama-server's, and vLLM's.
void OpenAiAnswer::write_reasoning(JsonWriter& w, const ChoicePart& part) {
  if (part.reasoning.empty()) return;
  w.field("reasoning_content", part.reasoning).field("reasoning", part.reasoning);
}

void OpenAiAnswer::write_calls(JsonWriter& w, const ChoicePart& part, bool whole) const {
  if (part.calls.empty()) return;
  w.key("tool_calls").open('[');
  for (const text::ToolCallPiece& call : part.calls) {
    w.open('{');
    if (!whole) w.field("index", call.index);
    if (!call.name.empty())
      w.field("id", tool_call_id(id_, part.index, call.index)).field("type", "function");
    w.key("function").open('{');
    if (!call.name.empty()) w.field("name", call.name);
    w.field("arguments", call.arguments).close('}').close('}');
  }
  w.close(']');
}

void OpenAiAnswer::write_choice(JsonWriter& w, const ChoicePart& part, bool whole) {
  w.open('{').field("index", part.index);
  write_text(w, part, whole);
  write_logprobs(w, part);
  write_finish(w, part);
  if (plan_.return_token_ids) {
    std::vector<TokenId> ids;
    for (const auto& t : part.tokens) ids.push_back(t.token);
    write_ids(w, "token_ids", ids);
    if (!chat() && part.prompt_ids) write_ids(w, "prompt_token_ids", *part.prompt_ids);
  }
  w.close('}');
}

void OpenAiAnswer::write_usage_so_far(JsonWriter& w, const AnswerUsage& so_far) const {
  if (plan_.continuous_usage) {
    write_usage(w, so_far, thinks());
  } else if (plan_.include_usage) {
    w.key("usage").null();
  }
}

std::string OpenAiAnswer::begin(std::span<const AnswerUsage> so_far) {
  std::string roles;
  for (size_t i = 0; chat() && i < so_far.size(); ++i) roles += role_event(static_cast<int>(i), so_far[i]);
  return roles;
}

std::string OpenAiAnswer::role_event(int index, const AnswerUsage& so_far) const {
  JsonWriter w(event_head_);
  w.key("choices").open('[').open('{').field("index", index);
  w.key("delta").open('{').field("role", "assistant").close('}');
  w.key("logprobs").null().key("finish_reason").null().close('}').close(']');
  write_usage_so_far(w, so_far);
  if (plan_.return_token_ids && index == 0) write_ids(w, "prompt_token_ids", plan_.requests[0].prompt);
  w.close('}');
  return end_event(w);
}

std::string OpenAiAnswer::part(const ChoicePart& part, const AnswerUsage& so_far,
                               const AnswerTimings* timings) {
  JsonWriter w(event_head_);
  w.key("choices").open('[');
  write_choice(w, part, false);
  w.close(']');
  write_usage_so_far(w, so_far);
  if (timings) write_timings(w, so_far, *timings);
  w.close('}');
  return end_event(w);
}

std::string OpenAiAnswer::end(const AnswerUsage& usage, const AnswerTimings& timings) {
  constexpr std::string_view kDone = "data: [DONE]\n\n";
  if (!plan_.include_usage) return std::string(kDone);
  JsonWriter w(event_head_);
  w.key("choices").open('[').close(']');
  write_usage(w, usage, thinks());
  write_timings(w, usage, timings);
  w.close('}');
  return cat(end_event(w), kDone);
}

std::string OpenAiAnswer::error(const ApiError& error) const {
  return cat("data: ", error_json(error), "\n\n");
}

std::string OpenAiAnswer::unary(std::span<const ChoicePart> parts, const AnswerUsage& usage,
                                const AnswerTimings& timings) {
  JsonWriter w;
  w.open('{');
  write_head(w, "chat.completion");
  w.key("choices").open('[');
  for (const auto& part : parts) write_choice(w, part, true);
  w.close(']');
  write_usage(w, usage, thinks());
  write_timings(w, usage, timings);
  if (chat() && plan_.return_token_ids) write_ids(w, "prompt_token_ids", plan_.requests[0].prompt);
  w.close('}');
  return w.take();
}

}  // namespace baton::coordinator
