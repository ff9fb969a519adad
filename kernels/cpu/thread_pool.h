#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace baton::kernels::cpu {

// Runs one function on every thread at once: fork, work, join. The calling thread is thread 0.
// Between calls the others spin for at most 50 us, then sleep in the kernel: an idle pool costs nothing.
// Owns its threads; the destructor joins them. Thread: one caller at a time.
// Example: pool.run([&](int thread) { work(slice(panels, thread, pool.size())); });
class ThreadPool {
 public:
  // Thread i is pinned to cpus[i] when `cpus` names that many; thread 0 by pin_caller().
  ThreadPool(int threads, const std::vector<int>& cpus);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Pins the calling thread to cpus[0], the first time it is called: by the thread that will do the steps,
  // which need not be the one that built the pool.
  void pin_caller();

  template <class Work>
  void run(const Work& work) {
    if (workers_.empty()) return work(0);
    run_job([](const void* context, int thread) { (*static_cast<const Work*>(context))(thread); }, &work);
  }

 private:
  using Job = void (*)(const void* context, int thread);
  struct alignas(64) Flag {
    std::atomic<uint32_t> value{0};
  };

  void run_job(Job job, const void* context);
  void work_loop(int thread);

  Job job_ = nullptr;  // nullptr in a new epoch: end
  const void* context_ = nullptr;
  Flag epoch_;              // counts jobs; written by the caller
  std::vector<Flag> done_;  // done_[i]: the last epoch worker i has finished; one line each
  std::vector<std::thread> workers_;
  int caller_cpu_ = -1;  // -1 = nothing left to pin
};

// The half-open share of [0, count) that belongs to `thread`: contiguous, sizes differ by at most one.
struct Share {
  int64_t begin;
  int64_t end;
};
constexpr Share share_of(int64_t count, int thread, int threads) {
  return {count * thread / threads, count * (thread + 1) / threads};
}

}  // namespace baton::kernels::cpu
