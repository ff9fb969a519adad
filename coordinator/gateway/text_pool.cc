#include "coordinator/gateway/text_pool.h"

#include <utility>

namespace baton::coordinator {

bool TextPool::submit(size_t bytes, std::function<void()> work) {
  {
    std::lock_guard lock(mutex_);
    if (closed_ || short_.size() + long_.size() >= capacity_) return false;
    (bytes > kLongText ? long_ : short_).push_back(std::move(work));
  }
  ready_.notify_one();
  return true;
}

void TextPool::run(std::stop_token stop) {
  std::unique_lock lock(mutex_);
  ++threads_;
  while (true) {
    ready_.wait(lock, stop, [&] { return closed_ || has_work(); });
    if (closed_ || stop.stop_requested()) break;
    const bool is_long = short_.empty();
    auto& queue = is_long ? long_ : short_;
    std::function<void()> work = std::move(queue.front());
    queue.pop_front();
    long_running_ += is_long;
    lock.unlock();
    work();
    work = nullptr;  // what it holds goes outside the lock
    lock.lock();
    if (!is_long) continue;
    --long_running_;
    ready_.notify_one();  // who was woken for a long text while too many ran went back to sleep
  }
  --threads_;
}

void TextPool::close() {
  std::deque<std::function<void()>> dropped_short, dropped_long;  // destroyed outside the lock
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    dropped_short.swap(short_);
    dropped_long.swap(long_);
  }
  ready_.notify_all();
}

size_t TextPool::waiting() const {
  std::lock_guard lock(mutex_);
  return short_.size() + long_.size();
}

}  // namespace baton::coordinator
