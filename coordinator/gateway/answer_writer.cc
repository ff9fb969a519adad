#include "coordinator/gateway/answer_writer.h"

#include <algorithm>
#include <functional>

#include "base/cat.h"
#include "coordinator/gateway/messages_answer.h"
#include "coordinator/gateway/openai_answer.h"
#include "coordinator/gateway/responses_answer.h"

namespace baton::coordinator {

std::unique_ptr<AnswerWriter> make_answer_writer(const text::Tokenizer& tokenizer, const GenerationPlan& plan,
                                                 std::string id, int64_t created) {
  if (plan.endpoint == Endpoint::kMessages) return std::make_unique<MessagesAnswer>(plan, std::move(id));
  if (plan.endpoint == Endpoint::kResponses)
    return std::make_unique<ResponsesAnswer>(plan, std::move(id), created);
  return std::make_unique<OpenAiAnswer>(tokenizer, plan, std::move(id), created);
}

std::span<const text::ToolCallPiece> rest_of_call(const ChoicePart& part) {
  const auto named = std::ranges::find_if(part.calls, [](const auto& call) { return !call.name.empty(); });
  return {part.calls.begin(), named};
}

std::string tool_call_id(std::string_view answer_id, int choice, int call) {
  constexpr std::string_view kDigits = "0123456789abcdefghijklmnopqrstuvwxyz";
  uint64_t hash = std::hash<std::string>()(cat(answer_id, "/", choice, "/", call));
  std::string out;
  for (int i = 0; i < 9; ++i, hash /= kDigits.size()) out += kDigits[hash % kDigits.size()];
  return out;
}

}  // namespace baton::coordinator
