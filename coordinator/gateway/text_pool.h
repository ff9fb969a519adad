#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <stop_token>

namespace baton::coordinator {

// Work that may take milliseconds (JSON, chat template, tokenising), kept off the io thread. A bounded queue
// that any number of threads serve; the threads are started by the wiring, each in run(). Work that nobody
// took before close() is dropped. Thread: any.
class TextPool {
 public:
  explicit TextPool(size_t capacity) : capacity_(capacity) {}
  // False when the queue is full or closed: the caller refuses the request.
  [[nodiscard]] bool submit(std::function<void()> work);
  // Serves until close() or until `stop` is asked for.
  void run(std::stop_token stop = {});
  void close();
  size_t waiting() const;

 private:
  const size_t capacity_;
  mutable std::mutex mutex_;
  std::condition_variable_any ready_;
  std::deque<std::function<void()>> queue_;
  bool closed_ = false;
};

}  // namespace baton::coordinator
