#include "benchmarks/transfer/baselines.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>

#include "base/check.h"
#include "base/rng.h"

namespace baton::benchmarks {
namespace {

using Clock = std::chrono::steady_clock;

double gigabytes_per_second(size_t bytes, Clock::duration time) {
  return static_cast<double>(bytes) / 1e9 / std::chrono::duration<double>(time).count();
}

void send_blocks(int fd, std::span<const std::byte> pool, size_t block, size_t total) {
  Rng rng(1);
  for (size_t sent = 0; sent < total; sent += block) {
    uint64_t header[8] = {sent};
    iovec parts[2] = {{header, sizeof header},
                      {const_cast<std::byte*>(&pool[rng.below(pool.size() / block) * block]), block}};
    for (size_t left = sizeof header + block; left > 0;) {
      const ssize_t n = ::writev(fd, parts, 2);
      if (n <= 0) return;
      left -= static_cast<size_t>(n);
      for (auto skip = static_cast<size_t>(n); iovec & part : parts) {
        const size_t here = std::min(skip, part.iov_len);
        part.iov_base = static_cast<char*>(part.iov_base) + here;
        part.iov_len -= here;
        skip -= here;
      }
    }
  }
}

bool receive(int fd, void* to, size_t bytes) {
  for (size_t got = 0; got < bytes;) {
    const ssize_t n = ::recv(fd, static_cast<char*>(to) + got, bytes - got, MSG_WAITALL);
    if (n <= 0) return false;
    got += static_cast<size_t>(n);
  }
  return true;
}

}  // namespace

double memcpy_rate(std::span<std::byte> to, std::span<const std::byte> from, size_t block, size_t total) {
  Rng rng(2);
  const auto begin = Clock::now();
  for (size_t done = 0; done < total; done += block)
    std::memcpy(&to[rng.below(to.size() / block) * block], &from[rng.below(from.size() / block) * block],
                block);
  return gigabytes_per_second(total, Clock::now() - begin);
}

double socket_rate(std::span<std::byte> pool, size_t block, size_t total) {
  const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  BATON_CHECK(::bind(listener, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
              ::listen(listener, 1) == 0);
  ::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
  const pid_t child = ::fork();
  if (child == 0) {
    const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
    if (::connect(fd, reinterpret_cast<sockaddr*>(&address), size) == 0) send_blocks(fd, pool, block, total);
    ::_exit(0);
  }
  const int fd = ::accept(listener, nullptr, nullptr);
  Rng rng(3);
  const auto begin = Clock::now();
  for (size_t got = 0; got < total; got += block) {
    uint64_t header[8];
    if (!receive(fd, header, sizeof header)) break;
    if (!receive(fd, &pool[rng.below(pool.size() / block) * block], block)) break;
  }
  const double rate = gigabytes_per_second(total, Clock::now() - begin);
  ::close(fd);
  ::close(listener);
  ::waitpid(child, nullptr, 0);
  return rate;
}

}  // namespace baton::benchmarks
