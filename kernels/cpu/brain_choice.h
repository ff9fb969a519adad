#pragma once

#include "kernels/cpu/kernels.h"

namespace baton::kernels::cpu {

// What the bf16 dot instruction may replace.
struct BrainLoops {
  void (*linear)(const LinearTask& task);
  void (*attend)(const AttendTask& task);
  bool operator==(const BrainLoops&) const = default;
};

// Of each loop the faster one, measured in caches in less than a millisecond: the instruction does the work
// of four multiply-adds, in half a cycle on Zen 4 and 5 and in two on Granite Rapids, where two plain ones
// and shared unpacking are faster. Both compute the same bits. Thread: any. Errors: none.
BrainLoops faster_of(const BrainLoops& a, const BrainLoops& b);

}  // namespace baton::kernels::cpu
