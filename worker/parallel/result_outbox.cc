#include "worker/parallel/result_outbox.h"

namespace baton::worker {

absl::Status ResultOutbox::post(std::span<const std::byte> message) {
  const std::lock_guard lock(mutex_);
  RETURN_IF_ERROR(error_);
  if (waiting_.empty() && message.size() <= kAtOnce) return error_ = send(message);
  waiting_.emplace_back(message.begin(), message.end());
  filled_.notify_one();
  return absl::OkStatus();
}

void ResultOutbox::run(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (filled_.wait(lock, stop, [this] { return !waiting_.empty(); })) {
    const std::vector<std::byte>& first = waiting_.front();  // stays where it is while others are posted
    lock.unlock();
    absl::Status sent = send(first);
    lock.lock();
    waiting_.pop_front();
    if (error_.ok()) error_ = std::move(sent);
    if (!error_.ok()) waiting_.clear();
  }
}

absl::Status ResultOutbox::send(std::span<const std::byte> message) {
  return results_.send(0, message, clock_.now() + patience_);
}

}  // namespace baton::worker
