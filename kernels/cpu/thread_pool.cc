#include "kernels/cpu/thread_pool.h"

#include <immintrin.h>
#include <pthread.h>
#include <sched.h>

#include <chrono>

#include "base/check.h"

namespace baton::kernels::cpu {
namespace {

constexpr auto kSpin = std::chrono::microseconds(50);

void pin(pthread_t thread, int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  // A cpu outside the process's allowance is not an error worth ending for: the thread then floats.
  (void)pthread_setaffinity_np(thread, sizeof(set), &set);
}

// Returns once `flag` differs from `old`: spins for a while, then sleeps on a futex.
void wait_while(const std::atomic<uint32_t>& flag, uint32_t old) {
  for (int i = 0; i < 256; ++i) {
    if (flag.load(std::memory_order_acquire) != old) return;
    _mm_pause();
  }
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  while (std::chrono::steady_clock::now() < deadline) {
    for (int i = 0; i < 64; ++i) {
      if (flag.load(std::memory_order_acquire) != old) return;
      _mm_pause();
    }
  }
  flag.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int threads, const std::vector<int>& cpus) : done_(threads) {
  BATON_CHECK(threads >= 1);
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work_loop(i); });
  if (static_cast<int>(cpus.size()) < threads) return;
  caller_cpu_ = cpus[0];
  for (int i = 1; i < threads; ++i) pin(workers_[i - 1].native_handle(), cpus[i]);
}

void ThreadPool::pin_caller() {
  if (caller_cpu_ >= 0) pin(pthread_self(), caller_cpu_);
  caller_cpu_ = -1;
}

ThreadPool::~ThreadPool() {
  if (workers_.empty()) return;
  job_ = nullptr;
  epoch_.value.fetch_add(1, std::memory_order_release);
  epoch_.value.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run_job(Job job, const void* context) {
  job_ = job;
  context_ = context;
  const uint32_t epoch = epoch_.value.fetch_add(1, std::memory_order_release) + 1;
  epoch_.value.notify_all();  // no system call while nobody sleeps
  job(context, 0);
  for (int i = 1; i < size(); ++i)
    while (done_[i].value.load(std::memory_order_acquire) != epoch) wait_while(done_[i].value, epoch - 1);
}

void ThreadPool::work_loop(int thread) {
  for (uint32_t epoch = 1;; ++epoch) {
    wait_while(epoch_.value, epoch - 1);
    if (job_ == nullptr) return;
    job_(context_, thread);
    done_[thread].value.store(epoch, std::memory_order_release);
    done_[thread].value.notify_one();
  }
}

}  // namespace baton::kernels::cpu
