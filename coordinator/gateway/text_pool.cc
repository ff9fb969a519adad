#include "coordinator/gateway/text_pool.h"

#include <utility>

namespace baton::coordinator {

bool TextPool::submit(std::function<void()> work) {
  {
    std::lock_guard lock(mutex_);
    if (closed_ || queue_.size() >= capacity_) return false;
    queue_.push_back(std::move(work));
  }
  ready_.notify_one();
  return true;
}

void TextPool::run(std::stop_token stop) {
  while (true) {
    std::function<void()> work;
    {
      std::unique_lock lock(mutex_);
      ready_.wait(lock, stop, [&] { return closed_ || !queue_.empty(); });
      if (closed_ || stop.stop_requested()) return;
      work = std::move(queue_.front());
      queue_.pop_front();
    }
    work();
  }
}

void TextPool::close() {
  std::deque<std::function<void()>> dropped;  // destroyed outside the lock
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    dropped.swap(queue_);
  }
  ready_.notify_all();
}

size_t TextPool::waiting() const {
  std::lock_guard lock(mutex_);
  return queue_.size();
}

}  // namespace baton::coordinator
