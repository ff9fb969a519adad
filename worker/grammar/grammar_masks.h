#pragma once

#include <functional>
#include <stop_token>

#include "base/mailbox.h"
#include "text/grammar_cache.h"
#include "worker/schedule/token_mask.h"

namespace baton::worker {

// Masks by text/grammar_matcher.h. What a grammar is compiled with is as wide as the model's logits and is
// made for the first one (SmolLM2: 150 ms), which GrammarThread does before the engine hears of the request.
// Thread: any. Owns the compiled grammars.
class GrammarMasks final : public TokenMasks {
 public:
  explicit GrammarMasks(text::GrammarCache::Load load) : grammars_(std::move(load)) {}
  absl::StatusOr<std::unique_ptr<TokenMask>> begin(const Grammar& grammar) override;

 private:
  text::GrammarCache grammars_;
};

// Compiles the grammars of requests that are on their way to the engine, so that no step waits for it: a
// compiled one is a copy for begin(). Thread: run() its own; compile() any. Errors: none; a grammar that
// cannot be compiled is told to the request by begin().
class GrammarThread {
 public:
  // `done(request)` is called on this thread, once for each that compile() took.
  GrammarThread(TokenMasks& masks, std::function<void(RequestId)> done);
  // False: too many wait; the engine will compile it itself.
  bool compile(RequestId request, const Grammar& grammar);
  // Until close().
  void run();
  void close() { mailbox_.close(); }

 private:
  struct Job {
    RequestId request;
    Grammar grammar;
  };
  TokenMasks& masks_;
  const std::function<void(RequestId)> done_;
  Mailbox<Job> mailbox_;
};

}  // namespace baton::worker
