#include "text/tokenizer.h"
#include "text/utf8_stream.h"

namespace baton::text {

struct StreamDecoder::State {
  const Tokenizer& tokenizer;
  bool skip_special;
  Utf8Stream utf8;
};

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special)
    : state_(new State{tokenizer, skip_special, {}}) {}
StreamDecoder::~StreamDecoder() = default;
StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;
StreamDecoder& StreamDecoder::operator=(StreamDecoder&&) noexcept = default;

std::string StreamDecoder::append(TokenId id) {
  std::string out;
  if (!state_->tokenizer.is_special(id)) {
    state_->utf8.append(state_->tokenizer.token_bytes(id), out);
  } else if (!state_->skip_special) {
    state_->utf8.append(state_->tokenizer.token_piece(id), out);
  }
  return out;
}

std::string StreamDecoder::finish() {
  std::string out;
  state_->utf8.finish(out);
  return out;
}

}  // namespace baton::text
