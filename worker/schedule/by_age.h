#pragma once

#include <algorithm>
#include <vector>

#include "worker/schedule/sequence.h"

namespace baton::worker {

// The scheduler's lists are in order of arrival, which is the order of ids. Example {3, 7}: 5 goes between
// them. Borrows the sequences. Thread: engine.
inline bool older(const Sequence* a, const Sequence* b) { return a->id < b->id; }

inline void insert_by_age(std::vector<Sequence*>& list, Sequence& sequence) {
  list.insert(std::lower_bound(list.begin(), list.end(), &sequence, older), &sequence);
}

// Nothing happens when it is not there.
inline void erase_from(std::vector<Sequence*>& list, Sequence& sequence) {
  const auto it = std::lower_bound(list.begin(), list.end(), &sequence, older);
  if (it != list.end() && *it == &sequence) list.erase(it);
}

}  // namespace baton::worker
