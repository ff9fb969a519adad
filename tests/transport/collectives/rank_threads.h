#pragma once

#include <unistd.h>

#include <functional>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "base/cat.h"
#include "base/clock.h"
#include "base/rng.h"
#include "transport/collectives/communicator.h"
#include "transport/collectives/stream_socket.h"

namespace baton {

using Ranks = std::vector<std::unique_ptr<Communicator>>;

inline Instant in(Duration d) { return SteadyClock().now() + d; }

// A port that is free now, on a loopback address of this process's own: nobody else takes it meanwhile.
inline absl::StatusOr<std::string> free_address() {
  const auto pid = static_cast<unsigned>(::getpid());
  const std::string host = cat("127.", 64 + (pid >> 16) % 64, ".", (pid >> 8) % 256, ".", pid % 256);
  ASSIGN_OR_RETURN(const OwnedFd listener, listen_at(cat(host, ":0")));
  return host_and_port(host, local_port(listener.get()));
}

// Runs `body(communicator)` on a thread for each rank.
inline void on_all(Ranks& ranks, const std::function<void(Communicator&)>& body) {
  std::vector<std::jthread> threads;
  for (auto& rank : ranks) threads.emplace_back([&body, &rank] { body(*rank); });
}

// What rank `rank` contributes to operation `operation`: large and small numbers, so that every other order
// of adding shows in the bits.
inline std::vector<float> contribution(uint64_t seed, int rank, int operation, size_t count) {
  std::mt19937_64 random(seed * 1'000'003 + static_cast<uint64_t>(operation) * 64 +
                         static_cast<uint64_t>(rank));
  std::vector<float> values(count);
  for (float& v : values) {
    const uint64_t bits = random();
    const float scale = static_cast<float>(uint64_t{1} << (bits & 31));
    v = (static_cast<float>(bits >> 40) / 16777216.0F - 0.5F) * scale;
  }
  return values;
}

}  // namespace baton
