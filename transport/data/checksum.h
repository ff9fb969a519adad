#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace baton::transport {

// The checksum of a piece: four CRC32C (Castagnoli), one per 8-byte word position modulo 4, so that the four
// chains run in parallel (24 bytes a cycle of latency become 8 bytes a cycle of throughput); then the CRC32C
// of the four and the length. Independent of how the bytes are cut into runs, as runs are multiples of 64
// bytes. copy() checks the very registers it stores: what was verified is what landed, even when the source
// changes.
class PieceChecksum {
 public:
  // All sizes: multiples of 64.
  void add(std::span<const std::byte> bytes);
  // memcpy and add. `around_cache`: with non-temporal stores; call finish_stores() after the last.
  void copy(std::byte* to, std::span<const std::byte> from, bool around_cache);
  uint32_t value() const;
  uint64_t bytes() const { return bytes_; }

  struct State {
    uint32_t crc[4] = {~0u, ~0u, ~0u, ~0u};
  };

 private:
  State state_;
  uint64_t bytes_ = 0;
};

// Makes non-temporal stores visible before whatever is written next.
void finish_stores();

// True when this machine has the instruction. Both ways give the same values.
bool has_hardware_checksum();

// Copies of at least this many bytes go around the cache.
inline constexpr size_t kAroundCacheBytes = 16 * 1024;

// One instruction class each; `to` may be null (only the checksum). Tests compare them.
void checksum_sse42(PieceChecksum::State& state, std::byte* to, const std::byte* from, size_t bytes,
                    bool around_cache);
void checksum_portable(PieceChecksum::State& state, std::byte* to, const std::byte* from, size_t bytes);

}  // namespace baton::transport
