#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

#include "text/grammar_matcher.h"

namespace baton::text {

// Matchers at the start of grammars, of which the last used are kept as compiled: compiling takes
// milliseconds, a copy 15 us. The vocabulary is made by the first call that needs it (`load`; one that failed
// is tried again). Thread: any; nobody waits while another compiles. Errors: the library's text of a grammar
// that it does not take, or load's.
class GrammarCache {
 public:
  using Load = std::function<absl::StatusOr<std::unique_ptr<GrammarVocabulary>>()>;
  explicit GrammarCache(Load load, const GrammarLimits& limits = {})
      : load_(std::move(load)), limits_(limits) {}

  absl::StatusOr<std::unique_ptr<GrammarMatcher>> matcher(const Grammar& grammar);

 private:
  struct Entry {
    Grammar grammar;
    std::unique_ptr<GrammarMatcher> start;
  };
  absl::StatusOr<const GrammarVocabulary*> vocabulary();
  absl::StatusOr<std::unique_ptr<GrammarMatcher>> find(const Grammar& grammar);  // null: not there

  static constexpr size_t kMost = 16;
  const Load load_;
  const GrammarLimits limits_;
  std::mutex load_mutex_;
  std::unique_ptr<GrammarVocabulary> vocabulary_;
  std::mutex entries_mutex_;
  std::deque<Entry> entries_;  // the one used last in front
};

}  // namespace baton::text
