#include "text/grammar_cache.h"

#include <algorithm>

namespace baton::text {

absl::StatusOr<std::unique_ptr<GrammarMatcher>> GrammarCache::matcher(const Grammar& grammar) {
  ASSIGN_OR_RETURN(std::unique_ptr<GrammarMatcher> matcher, find(grammar));
  if (matcher != nullptr) return matcher;
  ASSIGN_OR_RETURN(const GrammarVocabulary* const words, vocabulary());
  ASSIGN_OR_RETURN(matcher, words->compile(grammar, limits_));
  ASSIGN_OR_RETURN(std::unique_ptr<GrammarMatcher> start, matcher->copy());
  const std::lock_guard lock(entries_mutex_);
  if (entries_.size() == kMost) entries_.pop_back();
  entries_.push_front({grammar, std::move(start)});
  return matcher;
}

absl::StatusOr<std::unique_ptr<GrammarMatcher>> GrammarCache::find(const Grammar& grammar) {
  const std::lock_guard lock(entries_mutex_);
  const auto found = std::ranges::find(entries_, grammar, &Entry::grammar);
  if (found == entries_.end()) return nullptr;
  std::rotate(entries_.begin(), found, found + 1);
  return entries_.front().start->copy();
}

absl::StatusOr<const GrammarVocabulary*> GrammarCache::vocabulary() {
  const std::lock_guard lock(load_mutex_);
  if (vocabulary_ == nullptr) {
    ASSIGN_OR_RETURN(vocabulary_, load_());
  }
  return vocabulary_.get();
}

}  // namespace baton::text
