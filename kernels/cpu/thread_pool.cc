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

thread_local const ThreadPool* ThreadPool::inside_ = nullptr;
thread_local int ThreadPool::thread_ = 0;

ThreadPool::ThreadPool(int threads, const std::vector<int>& cpus) : done_(threads), passed_(threads) {
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
  order_.job = nullptr;
  order_.epoch.fetch_add(1, std::memory_order_release);
  order_.epoch.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run_job(Job job, const void* context) {
  order_.job = job;
  order_.context = context;
  const uint32_t epoch = order_.epoch.fetch_add(1, std::memory_order_release) + 1;
  order_.epoch.notify_all();  // no system call while nobody sleeps
  job(context, 0);
  for (int i = 1; i < size(); ++i)
    while (done_[i].value.load(std::memory_order_acquire) != epoch) wait_while(done_[i].value, epoch - 1);
}

// Everybody says that it has come and looks at everybody else: one line each way between two threads.
void ThreadPool::barrier() {
  std::atomic<uint32_t>& own = passed_[thread_].value;
  const uint32_t count = own.load(std::memory_order_relaxed) + 1;
  own.store(count, std::memory_order_release);
  own.notify_all();
  for (int i = 0; i < size(); ++i) {
    const std::atomic<uint32_t>& other = passed_[i].value;
    for (uint32_t seen = other.load(std::memory_order_acquire); static_cast<int32_t>(seen - count) < 0;
         seen = other.load(std::memory_order_acquire))
      wait_while(other, seen);
  }
}

void ThreadPool::work_loop(int thread) {
  for (uint32_t epoch = 1;; ++epoch) {
    wait_while(order_.epoch, epoch - 1);
    if (order_.job == nullptr) return;
    order_.job(order_.context, thread);
    done_[thread].value.store(epoch, std::memory_order_release);
    done_[thread].value.notify_one();
  }
}

}  // namespace baton::kernels::cpu
