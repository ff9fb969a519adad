#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/ids.h"
#include "base/status.h"
#include "transport/messages/messages.h"

namespace baton::worker {

// Which tokens the grammar of one answer allows next: a pure function of the answer's tokens so far, so that
// an answer that was preempted, handed over or moved goes on the same. Thread: one at a time. Errors: of one
// sequence (a step of the grammar that costs too much), a function of the tokens as well.
class TokenMask {
 public:
  struct Allowed {
    std::span<const uint32_t> words;  // bit i % 32 of word i / 32: token i; valid until the next call
    bool only_ends = false;           // the answer is complete, nothing but an end token may follow
  };
  virtual ~TokenMask() = default;
  // `answer`: that of the call before, or longer.
  virtual absl::StatusOr<Allowed> after(std::span<const TokenId> answer) = 0;
};

// Makes masks of requests with a grammar. Thread: any. Errors: kInvalidArgument for a grammar that is none.
class TokenMasks {
 public:
  virtual ~TokenMasks() = default;
  virtual absl::StatusOr<std::unique_ptr<TokenMask>> begin(const GenerateRequest& request) = 0;
};

}  // namespace baton::worker
