#pragma once

#include <atomic>

namespace baton::worker {

// On a rank that is not the first, engine and progress thread use one KV pool without a word between them:
// rank 0, another process, puts them in order. A landing is noted to it over the data plane and then it plans
// a step that reads the blocks; a step ends and then it has the blocks written anew. C++ knows of no order
// that passes through another process. This says it: who passes later sees all that the other one did before
// it passed. Both pass before what leaves the process and after what comes in.
//
// Thread: any.
class OrderFence {
 public:
  void pass() { passed_.fetch_add(1, std::memory_order_acq_rel); }

 private:
  std::atomic<unsigned> passed_{0};
};

}  // namespace baton::worker
