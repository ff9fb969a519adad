#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "coordinator/gateway/openai_request.h"
#include "coordinator/request/request_port.h"

namespace baton::coordinator {

// What ended a choice besides its finish_reason: nothing, a stop string, or a stop token's id.
using StopCause = std::variant<std::monostate, std::string, TokenId>;

// A part of one choice (a chunk of a stream), or all of it.
struct ChoicePart {
  int index = 0;
  std::string_view reasoning;  // of a model that thinks before it answers
  std::string_view text;
  std::span<const text::ToolCallPiece> calls;  // of the whole choice: one each
  std::span<const TokenOutput> tokens;
  std::span<const TokenOutput> prompt_tokens;        // with echo and logprobs
  const std::vector<TokenId>* prompt_ids = nullptr;  // with return_token_ids, once
  std::string_view finish_reason;                    // "" = not at its end
  StopCause stop_cause;
};

// What is counted of a call, for `usage`.
struct AnswerUsage : Usage {
  int32_t reasoning_tokens = 0;  // of those generated: thoughts and their marks
};

// Times of one call, for `timings` (llama-server's keys and our own).
struct AnswerTimings {
  Duration ttft{};
  Duration generation{};  // first token to last
  StageTimes stages;
  bool has_stages = false;  // a choice that ended by a stop string has none
  RouteVerdict verdict;
};

// Writes the JSON of answers in the shapes of OpenAI with vLLM's and llama-server's additions. Thread: io.
class AnswerWriter {
 public:
  AnswerWriter(const text::Tokenizer& tokenizer, const GenerationPlan& plan, std::string id, int64_t created);

  // ---- one SSE event each
  std::string role_event(int index, const AnswerUsage& so_far) const;
  // The last event of a stream without include_usage carries the timings.
  std::string part_event(const ChoicePart& part, const AnswerUsage& so_far, const AnswerTimings* timings);
  std::string usage_event(const AnswerUsage& usage, const AnswerTimings& timings) const;
  static std::string error_event(const ApiError& error);
  static std::string done_event() { return "data: [DONE]\n\n"; }

  // ---- the whole answer of a unary call
  std::string unary(std::span<const ChoicePart> parts, const AnswerUsage& usage,
                    const AnswerTimings& timings);

 private:
  bool thinks() const { return plan_.reasoning != text::ReasoningSyntax::kNone; }
  bool chat() const { return plan_.endpoint == Endpoint::kChat; }
  void write_head(JsonWriter& w, std::string_view chat_object) const;
  std::string begin_event() const;
  static std::string end_event(JsonWriter& w);
  void write_choice(JsonWriter& w, const ChoicePart& part, bool whole);
  void write_text(JsonWriter& w, const ChoicePart& part, bool whole) const;
  static void write_reasoning(JsonWriter& w, const ChoicePart& part);
  void write_calls(JsonWriter& w, const ChoicePart& part, bool whole) const;
  std::string call_id(int choice, int call) const;
  void write_logprobs(JsonWriter& w, const ChoicePart& part);
  void write_usage_so_far(JsonWriter& w, const AnswerUsage& so_far) const;
  void write_finish(JsonWriter& w, const ChoicePart& part) const;

  const text::Tokenizer& tokenizer_;
  const GenerationPlan& plan_;
  const std::string id_;
  const int64_t created_;
  const std::string event_head_;      // what all events of this stream begin with
  std::vector<size_t> text_offsets_;  // per choice, for logprobs of completions
};

}  // namespace baton::coordinator
