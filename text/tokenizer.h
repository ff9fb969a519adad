#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/status.h"

namespace baton::text {

// Text to token ids and back, by the Rust library `tokenizers`. Built from tokenizer.json or from the
// vocabulary inside a GGUF file (see model_text.h). Immutable. Thread: any.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  // Special tokens written in `text` are ordinary text when `parse_special` is false; with true the
  // spellings of special tokens become their ids (rendered templates, raw prompts). add_special puts BOS/EOS
  // as the model asks. A text that is seen to have more than most_tokens (0: any number) before it is
  // tokenised, which would take seconds for megabytes, is kOutOfRange, with "at least N tokens" as the
  // message; one that turns out to have more is encoded: the caller counts.
  struct EncodeOptions {
    bool add_special = true;
    bool parse_special = false;
    size_t most_tokens = 0;
  };
  virtual absl::StatusOr<std::vector<TokenId>> encode(std::string_view text, EncodeOptions options) const = 0;
  // The tokens' bytes as text; what is no UTF-8 becomes U+FFFD. skip_special drops control tokens. The ids
  // continue a prompt: the space that SentencePiece writes in front of a word is kept at the start, too.
  virtual std::string decode(std::span<const TokenId> ids, bool skip_special) const = 0;
  // The raw bytes of one token (byte-level and byte-fallback undone): may be part of a character. Empty for
  // control tokens.
  virtual std::string token_bytes(TokenId id) const = 0;
  // The vocabulary entry as written in the file.
  virtual std::string token_piece(TokenId id) const = 0;
  virtual bool is_special(TokenId id) const = 0;
  virtual int32_t vocab_size() const = 0;
};

// Turns a token stream into text as it comes, never emitting half a UTF-8 character; what append() and
// finish() return, concatenated, equals decode() of all ids. One per stream. Thread: its owner.
class StreamDecoder {
 public:
  StreamDecoder(const Tokenizer& tokenizer, bool skip_special);
  ~StreamDecoder();
  StreamDecoder(StreamDecoder&&) noexcept;
  StreamDecoder& operator=(StreamDecoder&&) noexcept;
  // Text that became certain with this token; may be empty.
  std::string append(TokenId id);
  // What is left when the stream ends (an unfinished character becomes U+FFFD).
  std::string finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace baton::text
