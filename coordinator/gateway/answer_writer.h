#pragma once

#include <cstdint>
#include <memory>
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

// The first pieces of a part, when they end a call that earlier parts began: they come before its text.
std::span<const text::ToolCallPiece> rest_of_call(const ChoicePart& part);

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

// Writes one call's answer in the words of the API it was asked in (GenerationPlan::endpoint). Thread: io.
class AnswerWriter {
 public:
  virtual ~AnswerWriter() = default;

  // ---- a stream: whole SSE events
  // Before the first token. `so_far`: of each choice.
  virtual std::string begin(std::span<const AnswerUsage> so_far) = 0;
  // `timings`: with the last part of a stream that does not end in a usage event.
  virtual std::string part(const ChoicePart& part, const AnswerUsage& so_far,
                           const AnswerTimings* timings) = 0;
  virtual std::string end(const AnswerUsage& usage, const AnswerTimings& timings) = 0;
  // In place of end().
  virtual std::string error(const ApiError& error) const = 0;

  // ---- or one body
  virtual std::string unary(std::span<const ChoicePart> parts, const AnswerUsage& usage,
                            const AnswerTimings& timings) = 0;
};

// `id`: of the request; `created`: Unix seconds. Borrows tokenizer and plan.
std::unique_ptr<AnswerWriter> make_answer_writer(const text::Tokenizer& tokenizer, const GenerationPlan& plan,
                                                 std::string id, int64_t created);

// The id of one call of a tool: nine letters and digits, what Mistral's templates want of an id when it comes
// back; others take any.
std::string tool_call_id(std::string_view answer_id, int choice, int call);

}  // namespace baton::coordinator
