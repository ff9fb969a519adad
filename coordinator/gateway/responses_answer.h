#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/gateway/answer_writer.h"
#include "coordinator/gateway/json_writer.h"

namespace baton::coordinator {

// One answer as a response object of OpenAI's Responses: items of reasoning, text and calls of functions, one
// behind the other. A call has one choice. Thread: io.
//
//   response.created  response.in_progress
//   each item: response.output_item.added, its deltas, what it came to, response.output_item.done
//   response.completed, or response.incomplete at the length limit, or response.failed
//
// Format: OpenAI's API reference, Responses and their streaming events.
class ResponsesAnswer final : public AnswerWriter {
 public:
  // Borrows the plan.
  ResponsesAnswer(const GenerationPlan& plan, std::string id, int64_t created)
      : plan_(plan), id_(std::move(id)), created_(created) {}

  std::string begin(std::span<const AnswerUsage> so_far) override;
  std::string part(const ChoicePart& part, const AnswerUsage& so_far, const AnswerTimings* timings) override;
  std::string end(const AnswerUsage& usage, const AnswerTimings& timings) override;
  std::string error(const ApiError& error) const override;
  std::string unary(std::span<const ChoicePart> parts, const AnswerUsage& usage,
                    const AnswerTimings& timings) override;

 private:
  enum class Kind : uint8_t { kReasoning, kMessage, kFunctionCall };
  struct Item {
    Kind kind;
    std::string_view status;  // "in_progress" while it is the last and open
    std::string id;
    std::string text;  // or the arguments
    text::ToolCallPiece call;
  };

  Item& item(Kind kind, const text::ToolCallPiece* call, std::string& out);
  void add(Item& item, std::string_view text, std::string& out);
  void add_arguments(std::string_view json, std::string& out);  // of the open call
  void close(std::string_view status, std::string& out);
  void write_item(JsonWriter& w, const Item& item) const;
  static void write_content(JsonWriter& w, const Item& item, std::string_view text);
  std::string response(std::string_view status, const AnswerUsage* usage, const ApiError* error) const;
  std::string_view final_status() const { return cut_off_ ? "incomplete" : "completed"; }
  // Opens the object of an event of the last item; event() closes it.
  JsonWriter of_item(std::string_view type);
  std::string event(std::string_view type, JsonWriter& w) const;
  std::string response_event(std::string_view type, const std::string& response);

  const GenerationPlan& plan_;
  const std::string id_;
  const int64_t created_;
  std::vector<Item> items_;
  bool cut_off_ = false;
  int64_t sequence_ = 0;  // of the next event
};

}  // namespace baton::coordinator
