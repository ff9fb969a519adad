#include "cli/bench/transfer_baselines.h"

#include <immintrin.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/rng.h"
#include "transport/data/peer_pool.h"
#include "transport/data/socket_address.h"

namespace baton::cli {
namespace {

// Memory of the kind that workers have, all of it there.
std::unique_ptr<transport::SharedPool> make_pool(uint64_t bytes) {
  auto pool = transport::SharedPool::create(bytes, true);
  BATON_CHECK(pool.ok(), std::string(pool.status().message()).c_str());
  return *std::move(pool);
}

std::span<std::byte> random_piece(std::span<std::byte> pool, uint64_t piece, Rng& rng) {
  return pool.subspan(rng.below(pool.size() / piece) * piece, piece);
}

// The best that one core was seen to do: lines of the source and pages of the target asked for two pages
// ahead (where the lines wait: transport/data/checksum_avx512.cc).
template <_mm_hint kHint>
void copy_around_cache(std::byte* to, const std::byte* from, size_t bytes) {
  constexpr size_t kPage = 4096, kAhead = 2 * kPage;
  for (size_t at = 0; at < bytes; at += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(from) + at + kAhead, kHint);
    if (at % kPage == 0 && at + kAhead < bytes)
      _mm_prefetch(reinterpret_cast<const char*>(to) + at + kAhead, _MM_HINT_T0);
    for (size_t i = 0; i < 64; i += 16)
      _mm_stream_si128(reinterpret_cast<__m128i*>(to + at + i),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + at + i)));
  }
  _mm_sfence();
}

struct Header {
  uint64_t bytes = 0;
  uint64_t rest[7] = {};
};

// Header and piece in one call as long as the kernel takes them.
void send_piece(int fd, std::span<const std::byte> piece) {
  Header header{.bytes = piece.size()};
  std::array<iovec, 2> parts = {iovec{&header, sizeof header},
                                iovec{const_cast<std::byte*>(piece.data()), piece.size()}};
  for (size_t left = sizeof header + piece.size(); left > 0;) {
    const ssize_t n = ::writev(fd, parts.data(), 2);
    if (n <= 0) ::_exit(1);
    left -= static_cast<size_t>(n);
    for (auto skip = static_cast<size_t>(n); iovec & part : parts) {
      const size_t here = std::min(skip, part.iov_len);
      part.iov_base = static_cast<char*>(part.iov_base) + here;
      part.iov_len -= here;
      skip -= here;
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

// Answers a header of 0 bytes with a byte, so that the sender knows when everything has arrived.
void receive_pieces(int fd, std::span<std::byte> pool) {
  Rng rng(3);
  const char arrived = 1;
  for (Header header; receive(fd, &header, sizeof header);) {
    if (header.bytes == 0) {
      if (::send(fd, &arrived, 1, 0) != 1) return;
    } else if (!receive(fd, random_piece(pool, header.bytes, rng).data(), header.bytes)) {
      return;
    }
  }
}

transport::SocketAddress at(const std::string& host, uint16_t port) {
  const auto address = transport::parse_address(host, port);
  BATON_CHECK(address.ok(), std::string(address.status().message()).c_str());
  return *address;
}

}  // namespace

MovePair memcpy_pair(uint64_t pool_bytes, bool around_cache) {
  static const bool kIntel = __builtin_cpu_is("intel") != 0;
  const auto copy = [pool_bytes, around_cache](const MovePipe& pipe, const std::string&) {
    const auto from = make_pool(pool_bytes), to = make_pool(pool_bytes);
    const SteadyClock clock;
    Rng rng(2);
    for (MoveOrder order; pipe.next(order);) {
      const Instant begin = clock.now();
      for (uint64_t done = 0; done < order.total; done += order.piece) {
        std::byte* target = random_piece(to->bytes(), order.piece, rng).data();
        const std::byte* source = random_piece(from->bytes(), order.piece, rng).data();
        if (!around_cache)
          std::memcpy(target, source, order.piece);
        else if (kIntel)
          copy_around_cache<_MM_HINT_T1>(target, source, order.piece);
        else
          copy_around_cache<_MM_HINT_NTA>(target, source, order.piece);
      }
      pipe.done(to_seconds(clock.now() - begin));
    }
  };
  return {.sender = copy, .receiver = [](const std::function<void(const std::string&)>& ready) {
            ready("nobody");
            ::pause();
          }};
}

MovePair raw_socket_pair(uint64_t pool_bytes, const std::string& host) {
  const auto send = [pool_bytes, host](const MovePipe& pipe, const std::string& port) {
    const auto pool = make_pool(pool_bytes);
    const transport::SocketAddress to = at(host, static_cast<uint16_t>(std::stoi(port)));
    const int fd = ::socket(to.family(), SOCK_STREAM, 0);
    if (::connect(fd, to.get(), to.size) != 0) ::_exit(1);
    const int on = 1;
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    const SteadyClock clock;
    Rng rng(1);
    for (MoveOrder order; pipe.next(order);) {
      const Instant begin = clock.now();
      for (uint64_t sent = 0; sent < order.total; sent += order.piece)
        send_piece(fd, random_piece(pool->bytes(), order.piece, rng));
      send_piece(fd, {});
      char arrived;
      if (!receive(fd, &arrived, 1)) ::_exit(1);
      pipe.done(to_seconds(clock.now() - begin));
    }
  };
  const auto serve = [pool_bytes, host](const std::function<void(const std::string&)>& ready) {
    const auto pool = make_pool(pool_bytes);
    transport::SocketAddress address = at(host, 0);
    const int listener = ::socket(address.family(), SOCK_STREAM, 0);
    if (::bind(listener, address.get(), address.size) != 0 || ::listen(listener, 1) != 0 ||
        ::getsockname(listener, address.get(), &address.size) != 0)
      return;
    ready(std::to_string(address.port()));
    receive_pieces(::accept(listener, nullptr, nullptr), pool->bytes());
  };
  return {.sender = send, .receiver = serve};
}

}  // namespace baton::cli
