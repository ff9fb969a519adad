#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "base/cat.h"
#include "base/clock.h"
#include "base/rng.h"
#include "transport/collectives/communicator.h"
#include "transport/collectives/stream_socket.h"

namespace baton {

using Ranks = std::vector<std::unique_ptr<Communicator>>;

inline Instant in(Duration d) { return SteadyClock().now() + d; }

// A port on a loopback address of this process's own. It stays bound, though nobody listens, until the
// process ends: a listener at this address may have it (SO_REUSEADDR), but no other call, no listener that
// takes any port and no connection is given it meanwhile.
inline absl::StatusOr<std::string> free_address() {
  static std::mutex mutex;
  static std::vector<OwnedFd> held;
  const auto pid = static_cast<unsigned>(::getpid());
  const std::string host = cat("127.", 64 + (pid >> 16) % 64, ".", (pid >> 8) % 256, ".", pid % 256);
  OwnedFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in any{};
  any.sin_family = AF_INET;
  const int on = 1;
  if (::inet_pton(AF_INET, host.c_str(), &any.sin_addr) != 1 ||
      ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
      ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&any), sizeof any) != 0)
    return absl::UnavailableError(cat("no free port at ", host));
  const std::string address = host_and_port(host, local_port(fd.get()));
  const std::lock_guard lock(mutex);
  held.push_back(std::move(fd));
  return address;
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
