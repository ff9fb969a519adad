#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <stop_token>

namespace baton::coordinator {

// Work that may take milliseconds (JSON, chat template, tokenising), kept off the io thread. A bounded queue
// that any number of threads serve; the threads are started by the wiring, each in run(). Long texts, which
// may take seconds, have a queue of their own and all threads but one: the others never wait behind them.
// Work that nobody took before close() is dropped. Thread: any.
class TextPool {
 public:
  static constexpr size_t kLongText = 256 << 10;  // bytes: some 0.1 s of a tokenizer

  explicit TextPool(size_t capacity, size_t long_bytes = 256 << 20)
      : capacity_(capacity), long_capacity_(long_bytes) {}
  // `bytes` of text are to be read. False when the queues are full (in number, or in bytes of long texts) or
  // closed: the caller refuses the request.
  [[nodiscard]] bool submit(size_t bytes, std::function<void()> work);
  // Serves until close() or until `stop` is asked for. A pool served by one thread gives it everything.
  void run(std::stop_token stop = {});
  void close();
  size_t waiting() const;

 private:
  bool may_take_long() const { return threads_ == 1 || long_running_ + 1 < threads_; }
  bool has_work() const { return !short_.empty() || (!long_.empty() && may_take_long()); }

  struct LongText {
    size_t bytes = 0;
    std::function<void()> work;
  };
  std::function<void()> take(bool is_long);

  const size_t capacity_;
  const size_t long_capacity_;
  mutable std::mutex mutex_;
  std::condition_variable_any ready_;
  std::deque<std::function<void()>> short_;
  std::deque<LongText> long_;
  size_t long_bytes_ = 0;  // that wait
  size_t threads_ = 0;     // in run()
  size_t long_running_ = 0;
  bool closed_ = false;
};

}  // namespace baton::coordinator
