#include "coordinator/gateway/text_pool.h"

#include <utility>

namespace baton::coordinator {

bool TextPool::submit(size_t bytes, std::function<void()> work) {
  {
    std::lock_guard lock(mutex_);
    if (closed_ || short_.size() + long_.size() >= capacity_) return false;
    if (bytes <= kLongText) {
      short_.push_back(std::move(work));
    } else if (long_bytes_ + bytes > long_capacity_) {
      return false;
    } else {
      long_.push_back({bytes, std::move(work)});
      long_bytes_ += bytes;
    }
  }
  ready_.notify_one();
  return true;
}

std::function<void()> TextPool::take(bool is_long) {
  std::function<void()> work;
  if (is_long) {
    work = std::move(long_.front().work);
    long_bytes_ -= long_.front().bytes;
    long_.pop_front();
  } else {
    work = std::move(short_.front());
    short_.pop_front();
  }
  return work;
}

void TextPool::run(std::stop_token stop) {
  std::unique_lock lock(mutex_);
  ++threads_;
  while (true) {
    ready_.wait(lock, stop, [&] { return closed_ || has_work(); });
    if (closed_ || stop.stop_requested()) break;
    const bool is_long = short_.empty();
    std::function<void()> work = take(is_long);
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
  std::deque<std::function<void()>> dropped_short;  // destroyed outside the lock
  std::deque<LongText> dropped_long;
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
