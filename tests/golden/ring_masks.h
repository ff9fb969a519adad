#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <vector>

#include "base/rng.h"
#include "worker/schedule/token_mask.h"

namespace baton::testing {

// Masks of languages that are easily told from any other, without a tokenizer: which tokens may come, about a
// quarter of them, depends on all tokens before and on the length of the grammar's source;
// every answer must end with token 7 sooner or later.
class RingMasks final : public worker::TokenMasks {
 public:
  explicit RingMasks(int64_t vocab) : vocab_(vocab) {}
  absl::StatusOr<std::unique_ptr<worker::TokenMask>> begin(const GenerateRequest& request) override {
    return std::make_unique<Ring>(vocab_, request.grammar.source.size());
  }
  bool allows(const Grammar& grammar, std::span<const TokenId> answer, TokenId token) const {
    Ring ring(vocab_, grammar.source.size());
    return (ring.after(answer)->words[static_cast<size_t>(token) / 32] >> (token % 32) & 1) != 0;
  }

 private:
  class Ring final : public worker::TokenMask {
   public:
    Ring(int64_t vocab, uint64_t salt) : salt_(salt), words_(static_cast<size_t>((vocab + 31) / 32)) {}
    absl::StatusOr<Allowed> after(std::span<const TokenId> answer) override {
      const bool ends = answer.size() >= 5 + salt_ % 7;
      uint64_t hash = salt_;
      for (const TokenId token : answer) hash = (hash ^ static_cast<uint64_t>(token)) * 0x100000001B3u;
      Rng rng(hash);
      for (uint32_t& word : words_) word = ends ? 0 : static_cast<uint32_t>(rng.next() & rng.next());
      if (ends) words_[0] = 1u << 7;
      return Allowed{.words = words_, .only_ends = ends};
    }

   private:
    const uint64_t salt_;
    std::vector<uint32_t> words_;
  };

  const int64_t vocab_;
};

}  // namespace baton::testing
