#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>

#include "base/mailbox.h"
#include "text/grammar_cache.h"
#include "worker/schedule/token_mask.h"

namespace baton::worker {

// Masks by text/grammar_matcher.h. What a grammar is compiled with is as wide as the model's logits and is
// made for the first one (SmolLM2: 150 ms). prepare() compiles, begin() takes what it made: an error too.
// Thread: any. Owns the compiled grammars.
class GrammarMasks final : public TokenMasks {
 public:
  explicit GrammarMasks(text::GrammarCache::Load load) : grammars_(std::move(load), limits()) {}
  void prepare(RequestId request, const Grammar& grammar);
  // The request has come to its end, begun or not.
  void forget(RequestId request);
  // Compiles here and now what was not prepared.
  absl::StatusOr<std::unique_ptr<TokenMask>> begin(const GenerateRequest& request) override;

 private:
  using Made = absl::StatusOr<std::unique_ptr<TokenMask>>;
  static text::GrammarLimits limits();
  Made make(const Grammar& grammar);

  text::GrammarCache grammars_;
  std::mutex mutex_;
  std::map<RequestId, Made> made_;
};

// Prepares the masks of requests that are on their way to the engine, so that no step waits for a compiler.
// Thread: run() its own; the others any. Errors: none; begin() tells the request.
class GrammarThread {
 public:
  // `done(request)` is called on this thread, once for each that compile() took.
  GrammarThread(GrammarMasks& masks, std::function<void(RequestId)> done);
  // False: too many wait.
  bool compile(RequestId request, const Grammar& grammar);
  // Until close(); who waits then waits in vain.
  void run();
  void close() { mailbox_.close(); }

 private:
  struct Job {
    RequestId request;
    Grammar grammar;
  };
  GrammarMasks& masks_;
  const std::function<void(RequestId)> done_;
  Mailbox<Job> mailbox_;
};

}  // namespace baton::worker
