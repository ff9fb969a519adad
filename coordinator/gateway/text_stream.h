#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/gateway/json_writer.h"
#include "text/tokenizer.h"
#include "transport/messages/messages.h"

namespace baton::coordinator {

// Finds stop strings in text that comes in pieces. Text that could be the start of one is held back. Of
// several, the one whose end comes first wins (of two with one end: the longer), so the result does not
// depend on the pieces. Thread: its owner.
//
//   stops {"END"}: push("say E") -> "say "; push("NERGY") -> "ENERGY"; push(" END!") -> " ", found() "END"
class StopMatcher {
 public:
  StopMatcher(std::vector<std::string> stops, bool include_stop);
  // Text that is certain now. Once found() nothing more is.
  std::string push(std::string_view text);
  // What was held back, when the stream ends.
  std::string flush();
  const std::optional<std::string>& found() const { return found_; }

 private:
  size_t possible_start() const;  // bytes at the end of held_ that could begin a stop string
  std::vector<std::string> stops_;
  const bool include_stop_;
  std::string held_;
  std::optional<std::string> found_;
};

struct TextStreamOptions {
  std::vector<std::string> stop;
  bool include_stop = false;  // the stop string or stop token becomes part of the text
  bool skip_special = true;
  int32_t min_tokens = 0;              // stop strings are looked for after that many tokens
  std::vector<TokenId> end_token_ids;  // these and the next end the stream; they are no part of the text
  std::vector<TokenId> stop_token_ids;
  std::vector<TokenId> spelled;  // control tokens that are part of the text all the same
};

// One choice: tokens in, text out. Thread: its owner.
class TextStream {
 public:
  TextStream(const text::Tokenizer& tokenizer, TextStreamOptions options);
  struct Delta {
    std::string text;
    size_t tokens = 0;  // how many of the given belong to the answer; fewer only when a stop string was found
  };
  Delta append(std::span<const TokenOutput> tokens);
  // The rest of the text; may still find a stop string.
  std::string finish();
  const std::optional<std::string>& stop_string() const { return matcher_.found(); }
  int32_t token_count() const { return count_; }

 private:
  bool ends_stream(TokenId id) const;
  const text::Tokenizer& tokenizer_;
  TextStreamOptions options_;
  text::StreamDecoder decoder_;
  StopMatcher matcher_;
  int32_t count_ = 0;
};

// OpenAI's two forms of log probabilities.
// Chat: {"content":[{"token","logprob","bytes","top_logprobs":[...]}]}
void write_chat_logprobs(JsonWriter& w, const text::Tokenizer& tokenizer, std::span<const TokenOutput> tokens,
                         int top);

// Completions: {"text_offset","token_logprobs","tokens","top_logprobs"}. `offset` is where the first token's
// text begins, in characters; it is moved behind the last. The first token of a prompt has no log
// probability: null.
struct CompletionLogprobs {
  std::span<const TokenOutput> prompt;
  std::span<const TokenOutput> tokens;
  bool prompt_begins_text = false;  // prompt[0] is the very first token
  int top = 0;
};
void write_completion_logprobs(JsonWriter& w, const text::Tokenizer& tokenizer,
                               const CompletionLogprobs& logprobs, size_t& offset);

}  // namespace baton::coordinator
