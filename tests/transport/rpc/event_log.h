#pragma once

#include <chrono>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "transport/messages/messages.h"

namespace baton::transport {

// Events from gRPC threads, read by the test's thread.
template <class Event>
class EventLog {
 public:
  // The sink to hand out. It refuses when `capacity` events are there.
  std::function<bool(Event)> sink() {
    return [this](Event event) {
      std::lock_guard lock(mutex_);
      if (events_.size() >= capacity_) return false;
      events_.push_back(std::move(event));
      return true;
    };
  }
  void set_capacity(size_t capacity) {
    std::lock_guard lock(mutex_);
    capacity_ = capacity;
  }
  template <class T>
  std::vector<T> all() const {
    std::lock_guard lock(mutex_);
    std::vector<T> out;
    for (const Event& event : events_) {
      if (const T* one = std::get_if<T>(&event)) out.push_back(*one);
    }
    return out;
  }
  template <class T>
  size_t count() const {
    return all<T>().size();
  }
  void clear() {
    std::lock_guard lock(mutex_);
    events_.clear();
  }

 private:
  mutable std::mutex mutex_;
  size_t capacity_ = SIZE_MAX;
  std::vector<Event> events_;
};

// Calls `turn` until `done`; false after 20 s, which only a hang reaches.
inline bool turn_until(const std::function<void()>& turn, const std::function<bool()>& done) {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!done()) {
    if (std::chrono::steady_clock::now() > limit) return false;
    turn();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

inline WorkerDescription some_worker(const std::string& name, uint64_t incarnation) {
  WorkerDescription worker;
  worker.ref = {name, Incarnation(incarnation)};
  worker.pool = "decode";
  worker.host_id = "host";
  worker.data_address = "data";
  worker.model_hash = "m";
  worker.kv_layout_hash = "k";
  worker.numerics_id = "n";
  worker.block_tokens = 16;
  worker.context_tokens = 2048;
  worker.blocks_total = 64;
  return worker;
}

inline Submit some_submit(uint64_t request, size_t prompt_tokens = 3) {
  Submit submit;
  submit.request.id = RequestId(request);
  submit.request.prompt.assign(prompt_tokens, 1);
  return submit;
}

}  // namespace baton::transport
