#pragma once

#include <atomic>
#include <cstdint>

#include "base/clock.h"

namespace baton {

// A counter in shared memory that others can wait for. It only grows, modulo 2^32: compare with reached().
// Zero bytes are a valid word. Written by one rank, read and slept on by any number, of any process that maps
// it. Thread: any.
struct FutexWord {
  std::atomic<uint32_t> value;
  std::atomic<uint32_t> sleepers;  // so that publishing wakes (a system call) only when somebody sleeps

  uint32_t load() const { return value.load(std::memory_order_acquire); }
  // Stores `next` after everything written before, and wakes who sleeps.
  void publish(uint32_t next);
  // Returns when the value is no longer `seen`, after `at_most`, or for no reason at all.
  void sleep_while(uint32_t seen, Duration at_most);
};

// Counters a and b are less than 2^31 apart.
inline bool reached(uint32_t counter, uint32_t want) { return static_cast<int32_t>(counter - want) >= 0; }

}  // namespace baton
