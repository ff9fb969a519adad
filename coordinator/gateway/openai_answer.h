#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/gateway/answer_writer.h"
#include "coordinator/gateway/json_writer.h"

namespace baton::coordinator {

// Chat and completions in OpenAI's shapes, with vLLM's and llama-server's additions. Thread: io.
class OpenAiAnswer final : public AnswerWriter {
 public:
  OpenAiAnswer(const text::Tokenizer& tokenizer, const GenerationPlan& plan, std::string id, int64_t created);

  std::string begin(std::span<const AnswerUsage> so_far) override;
  std::string part(const ChoicePart& part, const AnswerUsage& so_far, const AnswerTimings* timings) override;
  std::string end(const AnswerUsage& usage, const AnswerTimings& timings) override;
  std::string error(const ApiError& error) const override;
  std::string unary(std::span<const ChoicePart> parts, const AnswerUsage& usage,
                    const AnswerTimings& timings) override;

 private:
  std::string role_event(int index, const AnswerUsage& so_far) const;
  bool thinks() const { return plan_.reasoning != text::ReasoningSyntax::kNone; }
  bool chat() const { return plan_.endpoint == Endpoint::kChat; }
  void write_head(JsonWriter& w, std::string_view chat_object) const;
  std::string begin_event() const;
  static std::string end_event(JsonWriter& w);
  void write_choice(JsonWriter& w, const ChoicePart& part, bool whole);
  void write_text(JsonWriter& w, const ChoicePart& part, bool whole) const;
  static void write_reasoning(JsonWriter& w, const ChoicePart& part);
  void write_calls(JsonWriter& w, const ChoicePart& part, bool whole) const;
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
