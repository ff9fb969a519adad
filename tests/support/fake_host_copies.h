#pragma once

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "tests/support/kvhash_executor.h"
#include "worker/kv_cache/host_copies.h"

namespace baton::support {

struct FakeHostOptions {
  Duration block_delay = std::chrono::microseconds(100);  // of each block of a copy, one copy after the other
  Duration control_delay = std::chrono::microseconds(100);  // its end on the way to the engine
  std::function<Duration(Duration)> jitter;                 // applied to every delay
  std::function<bool(const worker::HostCopy&)> fails;       // asked at its end: the copy fails
};

// Host memory of one worker on virtual time: moves KvHashPool blocks, as late as a copy may, namely when it
// ends, so that a block that was given away too early is found out. Drive: whenever clock >= next_event(),
// call run_due(); it calls the sink. Thread: one.
class FakeHostCopies final : public worker::HostCopies {
 public:
  FakeHostCopies(KvHashPool& pool, const Clock& clock, FakeHostOptions options, worker::HostCopiedSink sink)
      : pool_(pool), clock_(clock), options_(std::move(options)), sink_(std::move(sink)) {}

  void copy(worker::HostCopy copy) override {
    const auto blocks = static_cast<int>(copy.blocks.size());
    const Instant free = copies_.empty() ? stalled_until_ : std::max(copies_.back().ends, stalled_until_);
    copies_.push_back({.ends = std::max(free, clock_.now()) + jittered(options_.block_delay * blocks),
                       .copy = std::move(copy)});
  }

  // Nothing ends before that much later.
  void stall(Duration time) { stalled_until_ = clock_.now() + time; }

  Instant next_event() const {
    const Instant copied = copies_.empty() ? kNever : copies_.front().ends;
    return told_.empty() ? copied : std::min(copied, told_.front().first);
  }
  bool run_due() {
    bool any = false;
    for (; !copies_.empty() && copies_.front().ends <= clock_.now(); copies_.pop_front(), any = true)
      end(copies_.front().copy);
    for (; !told_.empty() && told_.front().first <= clock_.now(); any = true) {
      worker::HostCopied event = std::move(told_.front().second);
      told_.pop_front();
      sink_(std::move(event));
    }
    return any;
  }
  // Blocks that were free (and poisoned) when they were copied out.
  uint64_t stale_reads() const { return stale_reads_; }

 private:
  struct Copy {
    Instant ends{};
    worker::HostCopy copy;
  };
  void end(const worker::HostCopy& copy) {
    failed_ = failed_ || (options_.fails && options_.fails(copy));
    for (const auto& [block, slot] : copy.blocks) {
      if (failed_) {
        if (!copy.out) pool_.poison(block);
      } else if (copy.out) {
        stale_reads_ += pool_.poisoned(0, block, 0);
        memory_[slot] = pool_.content(block);
      } else {
        pool_.set_content(block, memory_.at(slot));
      }
    }
    last_told_ = std::max(last_told_, clock_.now() + jittered(options_.control_delay));
    told_.emplace_back(last_told_, worker::HostCopied{.id = copy.id, .error = failed_ ? "injected" : ""});
  }
  Duration jittered(Duration delay) const { return options_.jitter ? options_.jitter(delay) : delay; }

  KvHashPool& pool_;
  const Clock& clock_;
  const FakeHostOptions options_;
  const worker::HostCopiedSink sink_;
  std::map<worker::HostSlot, std::vector<uint64_t>> memory_;
  std::deque<Copy> copies_;
  std::deque<std::pair<Instant, worker::HostCopied>> told_;
  Instant last_told_{};
  Instant stalled_until_{};
  bool failed_ = false;
  uint64_t stale_reads_ = 0;
};

}  // namespace baton::support
