#pragma once

#include <span>
#include <string>

#include "coordinator/gateway/answer_writer.h"
#include "coordinator/gateway/json_writer.h"

namespace baton::coordinator {

// One answer in the shapes of Anthropic's Messages: content blocks of thoughts, text and calls of tools, one
// behind the other. A call has one choice. Thread: io.
//
//   message_start  content_block_start, content_block_delta ..., content_block_stop  (each block)
//   message_delta (stop_reason, usage)  message_stop
//
// Format: docs.anthropic.com, API reference, Messages and streaming; version 2023-06-01.
class MessagesAnswer final : public AnswerWriter {
 public:
  // Borrows the plan.
  MessagesAnswer(const GenerationPlan& plan, std::string id) : plan_(plan), id_(std::move(id)) {}

  std::string begin(std::span<const AnswerUsage> so_far) override;
  std::string part(const ChoicePart& part, const AnswerUsage& so_far, const AnswerTimings* timings) override;
  std::string end(const AnswerUsage& usage, const AnswerTimings& timings) override;
  std::string error(const ApiError& error) const override;
  std::string unary(std::span<const ChoicePart> parts, const AnswerUsage& usage,
                    const AnswerTimings& timings) override;

 private:
  enum class Block : uint8_t { kNone, kThinking, kText, kToolUse };

  bool thinks() const { return plan_.reasoning != text::ReasoningSyntax::kNone; }
  void write_head(JsonWriter& w) const;
  void write_stop(JsonWriter& w, const ChoicePart& part) const;
  void write_tool_use(JsonWriter& w, const text::ToolCallPiece& call, std::string_view input) const;
  // Events, added to out.
  void open(Block kind, const text::ToolCallPiece* call, std::string& out);
  void close(std::string& out);
  void add_input(std::string_view json, std::string& out) const;  // of the open call
  void delta(std::string_view type, std::string_view name, std::string_view text, std::string& out) const;

  const GenerationPlan& plan_;
  const std::string id_;
  Block block_ = Block::kNone;  // that is open
  int index_ = 0;               // its number, or the next one's
};

}  // namespace baton::coordinator
