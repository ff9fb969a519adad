#include "coordinator/gateway/openai_answer.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>

#include "tests/coordinator/gateway/fake_model.h"

namespace baton::coordinator {
namespace {

using namespace std::chrono_literals;

boost::json::value timings_of(int32_t completion_tokens, Duration generation) {
  const ByteTokenizer tokenizer;
  const GenerationPlan plan;
  OpenAiAnswer writer(tokenizer, plan, "id", 0);
  const AnswerUsage usage{{.prompt_tokens = 10, .completion_tokens = completion_tokens, .cached_tokens = 4}};
  const std::string answer = writer.unary({}, usage, {.ttft = 3s, .generation = generation});
  return boost::json::parse(answer).at("timings");
}

// The time runs from the first token on: it made the others.
TEST(AnswerTimings, RatesAreOfTheTokensMadeInTheirTime) {
  const auto eleven = timings_of(11, 2s);
  EXPECT_EQ(eleven.at("predicted_n"), 11);
  EXPECT_EQ(eleven.at("predicted_ms"), 2000);
  EXPECT_EQ(eleven.at("predicted_per_second"), 5);
  EXPECT_EQ(eleven.at("predicted_per_token_ms"), 200);
  EXPECT_EQ(eleven.at("prompt_n"), 6);
  EXPECT_EQ(eleven.at("prompt_per_second"), 2);
  for (const int32_t tokens : {0, 1}) {
    const auto few = timings_of(tokens, 1us);
    EXPECT_EQ(few.at("predicted_n"), tokens);
    EXPECT_EQ(few.at("predicted_per_second"), 0) << "nothing was made behind the first token";
    EXPECT_EQ(few.at("predicted_per_token_ms"), 0);
  }
}

}  // namespace
}  // namespace baton::coordinator
