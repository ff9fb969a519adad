#pragma once

#include <chrono>
#include <functional>
#include <thread>

namespace baton::support {

// Waits until `condition` holds, for as long as a loaded machine may take; whether it does.
inline bool soon(const std::function<bool()>& condition) {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > limit) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

}  // namespace baton::support
