#pragma once

#include <cstddef>
#include <deque>
#include <utility>

namespace baton::transport {

// What may wait for a slow reader before its stream is given up. The bound is the back-pressure rule of the
// control plane: nobody waits for room, a stream that cannot keep up is closed, and its peer starts again
// from a clean state.
struct QueueBounds {
  size_t messages = 8192;
  size_t bytes = size_t{64} << 20;
};

// Messages on their way out of one stream, oldest first; the front one is being written. gRPC takes one write
// at a time: push() says when the caller must start it, pop() what to start next. Thread: whoever holds the
// stream's lock. Owns the messages; front() stays where it is until pop().
template <class Message>
class WriteQueue {
 public:
  enum class Push { kStartWrite, kQueued, kOverflow };

  explicit WriteQueue(QueueBounds bounds) : bounds_(bounds) {}

  Push push(Message message) {
    const size_t bytes = message.ByteSizeLong();
    if (queue_.size() >= bounds_.messages || bytes_ + bytes > bounds_.bytes) return Push::kOverflow;
    bytes_ += bytes;
    queue_.emplace_back(std::move(message), bytes);
    return queue_.size() == 1 ? Push::kStartWrite : Push::kQueued;
  }

  // For a message that may become part of the last one, as long as that is small and not being written:
  // `merge(last, message)` says whether it did. Counted with the bytes it had alone.
  template <class Merge>
  bool merge_into_last(Message& message, Merge merge) {
    if (queue_.size() < 2) return false;
    const size_t bytes = message.ByteSizeLong();
    if (queue_.back().second + bytes > kLargestMerged || bytes_ + bytes > bounds_.bytes) return false;
    if (!merge(queue_.back().first, message)) return false;
    queue_.back().second += bytes;
    bytes_ += bytes;
    return true;
  }

  const Message& front() const { return queue_.front().first; }
  // The front one was written. True when there is another one to start.
  bool pop() {
    bytes_ -= queue_.front().second;
    queue_.pop_front();
    return !queue_.empty();
  }
  bool writing() const { return !queue_.empty(); }

 private:
  static constexpr size_t kLargestMerged = size_t{256} << 10;  // far from what gRPC refuses
  const QueueBounds bounds_;
  std::deque<std::pair<Message, size_t>> queue_;
  size_t bytes_ = 0;
};

}  // namespace baton::transport
