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
//
// A sequence of jobs costs less inside together(): all threads run the same body, each with its own stack,
// and a run() in it is this thread's part and a barrier. Between cores that share no cache every line that
// must come from another one takes 0.2 us, and a job handed over is several of them, one after the other.
// Example: pool.together([&] { for (Layer& l : layers) pool.run([&](int thread) { l.part(thread); }); });
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
    if (inside_ == this) {
      work(thread_);
      return barrier();
    }
    run_job([](const void* context, int thread) { (*static_cast<const Work*>(context))(thread); }, &work);
  }

  // Runs `body` on every thread at once and returns when all have. The bodies must make the same calls of
  // run() and alone() in the same order.
  template <class Body>
  void together(const Body& body) {
    if (workers_.empty()) return body();
    run([this, &body](int thread) {
      inside_ = this;
      thread_ = thread;
      body();
      inside_ = nullptr;
    });
  }

  // run() without the barrier inside together(): for work whose result only this thread reads, before the
  // next run() or alone().
  template <class Work>
  void run_apart(const Work& work) {
    if (inside_ == this) return work(thread_);
    run(work);
  }

  // Work for one thread: inside together() thread 0 does it while the others wait.
  template <class Work>
  void alone(const Work& work) {
    if (inside_ != this) return work();
    if (thread_ == 0) work();
    barrier();
  }

  // False on all threads but one inside together().
  bool leads() const { return inside_ != this || thread_ == 0; }

 private:
  using Job = void (*)(const void* context, int thread);
  struct alignas(64) Flag {
    std::atomic<uint32_t> value{0};
  };
  // What a job is, beside the word that announces it: one line to fetch.
  struct alignas(64) Order {
    std::atomic<uint32_t> epoch{0};  // counts jobs; written by the caller
    Job job = nullptr;               // nullptr in a new epoch: end
    const void* context = nullptr;
  };

  void barrier();
  void run_job(Job job, const void* context);
  void work_loop(int thread);

  // Which pool's together() this thread is in, and as which of its threads.
  static thread_local const ThreadPool* inside_;
  static thread_local int thread_;

  Order order_;
  std::vector<Flag> done_;    // done_[i]: the last epoch worker i has finished; one line each
  std::vector<Flag> passed_;  // passed_[i]: barriers thread i has come to
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
