#include "transport/collectives/futex_word.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <ctime>

namespace baton {
namespace {

// Not the private forms: ranks may be processes.
void futex(std::atomic<uint32_t>& word, int operation, uint32_t value, const timespec* limit) {
  ::syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), operation, value, limit, nullptr, 0);
}

}  // namespace

void FutexWord::publish(uint32_t next) {
  // Both sequentially consistent: either the sleeper sees the new value, or we see the sleeper.
  value.store(next, std::memory_order_seq_cst);
  if (sleepers.load(std::memory_order_seq_cst) != 0) futex(value, FUTEX_WAKE, INT_MAX, nullptr);
}

void FutexWord::sleep_while(uint32_t seen, Duration at_most) {
  if (at_most <= Duration::zero()) return;
  const auto ns = at_most.count();
  const timespec limit{.tv_sec = ns / 1'000'000'000, .tv_nsec = ns % 1'000'000'000};
  sleepers.fetch_add(1, std::memory_order_seq_cst);
  if (value.load(std::memory_order_seq_cst) == seen) futex(value, FUTEX_WAIT, seen, &limit);
  sleepers.fetch_sub(1, std::memory_order_seq_cst);
}

}  // namespace baton
