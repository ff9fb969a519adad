#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <utility>
#include <vector>

#include "base/clock.h"

namespace baton {

// A bounded queue into one thread. Any thread posts; the owner drains. When it is full post() refuses and the
// caller does what its own back-pressure rule says; nothing waits for room.
// The optional `wake` is called after a post into an empty box, for owners that wait elsewhere (an event
// loop).
template <class Message>
class Mailbox {
 public:
  explicit Mailbox(size_t capacity, std::function<void()> wake = {})
      : capacity_(capacity), wake_(std::move(wake)) {}

  // False when full or closed. Thread: any.
  [[nodiscard]] bool post(Message message) {
    bool was_empty;
    {
      std::lock_guard lock(mutex_);
      if (closed_ || queue_.size() >= capacity_) return false;
      was_empty = queue_.empty();
      queue_.push_back(std::move(message));
      empty_.store(false, std::memory_order_release);
    }
    if (was_empty) {
      ready_.notify_one();
      if (wake_) wake_();
    }
    return true;
  }

  // Appends everything that is there to `out`; returns how many. An empty box is seen without its lock.
  // Thread: owner.
  size_t drain(std::vector<Message>& out) {
    if (empty_.load(std::memory_order_acquire)) return 0;
    std::lock_guard lock(mutex_);
    const size_t n = queue_.size();
    for (auto& m : queue_) out.push_back(std::move(m));
    queue_.clear();
    empty_.store(true, std::memory_order_release);
    return n;
  }

  // Returns when a message is there, the box is closed, or `deadline` has passed. Thread: owner.
  void wait_until(Instant deadline) {
    std::unique_lock lock(mutex_);
    const auto ready = [&] { return closed_ || !queue_.empty(); };
    if (deadline == kNever) {
      ready_.wait(lock, ready);
    } else {
      ready_.wait_until(lock, deadline, ready);
    }
  }

  void close() {
    {
      std::lock_guard lock(mutex_);
      closed_ = true;
    }
    ready_.notify_all();
    if (wake_) wake_();
  }

  bool closed() const { return closed_.load(std::memory_order_acquire); }

 private:
  const size_t capacity_;
  const std::function<void()> wake_;
  mutable std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<Message> queue_;
  std::atomic<bool> closed_ = false;  // both are written under the lock
  std::atomic<bool> empty_ = true;
};

}  // namespace baton
