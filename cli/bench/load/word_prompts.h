#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace baton::load {

// Short English words; which of them are one token with the space before them depends on the model.
std::span<const std::string_view> candidate_words();

// Prompts of counted tokens: a first word that is always the same, then words drawn by a seed, each one token
// of the model with the space before it. `extra` tokens stand around any text (a begin token, say).
// Immutable. Example: extra 1, text(7, 5) gives 4 words: 5 tokens.
class WordPrompts {
 public:
  WordPrompts(std::vector<std::string> words, int extra) : words_(std::move(words)), extra_(extra) {}

  std::string text(uint64_t seed, int tokens) const;
  // `prefix_tokens` drawn by `prefix_seed`, which prompts may share, then `own_tokens` drawn by `seed`.
  std::string text(uint64_t prefix_seed, int prefix_tokens, uint64_t seed, int own_tokens) const;
  size_t words() const { return words_.size(); }

 private:
  void append(std::string& text, uint64_t seed, int words) const;

  std::vector<std::string> words_;
  int extra_ = 0;
};

}  // namespace baton::load
