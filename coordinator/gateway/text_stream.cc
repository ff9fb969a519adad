#include "coordinator/gateway/text_stream.h"

#include <algorithm>

namespace baton::coordinator {
namespace {

// Log probabilities of minus infinity (masked tokens) are told as vLLM does: JSON has no infinity.
constexpr float kLowestLogprob = -9999.0f;
float told(float logprob) { return std::max(logprob, kLowestLogprob); }

// Bytes of a token for a reader: control tokens have none, so their spelling stands for them.
std::string spelled(const text::Tokenizer& tokenizer, TokenId id) {
  std::string bytes = tokenizer.token_bytes(id);
  return bytes.empty() ? tokenizer.token_piece(id) : bytes;
}

bool holds(const std::vector<TokenId>& ids, TokenId id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

size_t characters(std::string_view utf8) {
  return static_cast<size_t>(
      std::count_if(utf8.begin(), utf8.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

void write_chat_token(JsonWriter& w, const text::Tokenizer& tokenizer, TokenId id, float logprob) {
  const std::string bytes = spelled(tokenizer, id);
  w.field("token", bytes).field("logprob", told(logprob)).key("bytes").open('[');
  for (const char c : bytes) w.value(static_cast<int>(static_cast<unsigned char>(c)));
  w.close(']');
}

// The alternatives of one place, the chosen token among them; equal spellings once.
void write_alternatives(JsonWriter& w, const text::Tokenizer& tokenizer, const TokenOutput& token, int top) {
  std::vector<std::string> names;
  const auto add = [&](TokenId id, float logprob) {
    std::string name = to_utf8(spelled(tokenizer, id));
    if (std::find(names.begin(), names.end(), name) != names.end()) return;
    w.field(name, told(logprob));
    names.push_back(std::move(name));
  };
  w.open('{');
  for (size_t i = 0; i < token.top.size() && i < static_cast<size_t>(top); ++i)
    add(token.top[i].token, token.top[i].logprob);
  add(token.token, token.logprob);
  w.close('}');
}

}  // namespace

StopMatcher::StopMatcher(std::vector<std::string> stops, bool include_stop)
    : stops_(std::move(stops)), include_stop_(include_stop) {}

size_t StopMatcher::possible_start() const {
  size_t longest = 0;
  for (const auto& s : stops_) longest = std::max(longest, s.size());
  if (longest == 0) return 0;
  for (size_t n = std::min(longest - 1, held_.size()); n > 0; --n) {
    const auto tail = std::string_view(held_).substr(held_.size() - n);
    for (const auto& s : stops_)
      if (s.size() > n && s.starts_with(tail)) return n;
  }
  return 0;
}

std::string StopMatcher::push(std::string_view text) {
  if (found_) return {};
  if (stops_.empty()) return std::string(text);
  held_ += text;
  const std::string* best = nullptr;
  size_t best_end = held_.size() + 1;
  for (const auto& s : stops_) {
    const size_t at = held_.find(s);
    if (at == std::string::npos) continue;
    const size_t end = at + s.size();
    if (end < best_end || (end == best_end && s.size() > best->size())) {
      best = &s;
      best_end = end;
    }
  }
  if (best) {
    found_ = *best;
    held_.resize(include_stop_ ? best_end : best_end - best->size());
    return std::exchange(held_, {});
  }
  const size_t keep = possible_start();
  std::string certain = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return certain;
}

std::string StopMatcher::flush() { return std::exchange(held_, {}); }

TextStream::TextStream(const text::Tokenizer& tokenizer, TextStreamOptions options)
    : tokenizer_(tokenizer),
      options_(std::move(options)),
      decoder_(tokenizer, options_.skip_special),
      matcher_(options_.stop, options_.include_stop) {}

bool TextStream::ends_stream(TokenId id) const {
  return holds(options_.end_token_ids, id) || holds(options_.stop_token_ids, id);
}

TextStream::Delta TextStream::append(std::span<const TokenOutput> tokens) {
  Delta delta;
  for (const auto& token : tokens) {
    if (matcher_.found()) break;
    ++delta.tokens;
    ++count_;
    if (ends_stream(token.token) && !options_.include_stop) continue;
    std::string text = decoder_.append(token.token);
    if (options_.skip_special && holds(options_.spelled, token.token))
      text += tokenizer_.token_piece(token.token);
    delta.text += count_ <= options_.min_tokens ? text : matcher_.push(text);
  }
  return delta;
}

std::string TextStream::finish() {
  if (matcher_.found()) return {};
  std::string text = matcher_.push(decoder_.finish());
  return text + matcher_.flush();
}

void write_chat_logprobs(JsonWriter& w, const text::Tokenizer& tokenizer, std::span<const TokenOutput> tokens,
                         int top) {
  w.open('{').key("content").open('[');
  for (const auto& token : tokens) {
    w.open('{');
    write_chat_token(w, tokenizer, token.token, token.logprob);
    w.key("top_logprobs").open('[');
    for (size_t i = 0; i < token.top.size() && i < static_cast<size_t>(top); ++i) {
      w.open('{');
      write_chat_token(w, tokenizer, token.top[i].token, token.top[i].logprob);
      w.close('}');
    }
    w.close(']').close('}');
  }
  w.close(']').close('}');
}

void write_completion_logprobs(JsonWriter& w, const text::Tokenizer& tokenizer,
                               const CompletionLogprobs& logprobs, size_t& offset) {
  std::vector<const TokenOutput*> all;
  for (const auto& t : logprobs.prompt) all.push_back(&t);
  for (const auto& t : logprobs.tokens) all.push_back(&t);
  const auto unknown = [&](size_t i) {
    return i == 0 && logprobs.prompt_begins_text && !logprobs.prompt.empty();
  };

  w.open('{').key("text_offset").open('[');
  for (const auto* t : all) {
    w.value(offset);
    offset += characters(to_utf8(spelled(tokenizer, t->token)));
  }
  w.close(']').key("token_logprobs").open('[');
  for (size_t i = 0; i < all.size(); ++i) unknown(i) ? w.null() : w.value(told(all[i]->logprob));
  w.close(']').key("tokens").open('[');
  for (const auto* t : all) w.value(spelled(tokenizer, t->token));
  w.close(']').key("top_logprobs");
  if (logprobs.top == 0) {
    w.null();
  } else {
    w.open('[');
    for (size_t i = 0; i < all.size(); ++i)
      unknown(i) ? (void)w.null() : write_alternatives(w, tokenizer, *all[i], logprobs.top);
    w.close(']');
  }
  w.close('}');
}

}  // namespace baton::coordinator
