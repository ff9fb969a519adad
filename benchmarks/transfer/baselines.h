#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace baton::benchmarks {

// GB/s of moving `total` bytes in blocks of `block`, from random blocks to random blocks.
double memcpy_rate(std::span<std::byte> to, std::span<const std::byte> from, size_t block, size_t total);
// The same through a TCP socket on loopback, a header before each block, received straight into its place.
// Forks.
double socket_rate(std::span<std::byte> pool, size_t block, size_t total);

}  // namespace baton::benchmarks
