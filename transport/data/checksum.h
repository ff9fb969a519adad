#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace baton::transport {

// The checksum of a piece: eight CRC32C (Castagnoli), one per 8-byte word position of a cache line, then the
// CRC32C of the eight and the length. Eight, so that chains of the CRC32 instruction run in parallel and wide
// carry-less products work on whole lines. Independent of how the bytes are cut into runs, as runs are
// multiples of 64 bytes. copy() checks the very registers it stores: what was verified is what landed, even
// when the source changes. On cold memory a copy with its sum is within 3 % of a copy without.
class PieceChecksum {
 public:
  // All sizes: multiples of 64. `next`: where the bytes of the following call begin, if known; they are asked
  // for while the last of these are worked on. A hint: it need not be readable.
  void add(std::span<const std::byte> bytes, const std::byte* next = nullptr);
  // memcpy and add. `around_cache`: with non-temporal stores where `to` is a multiple of 64; call
  // finish_stores() after the last.
  void copy(std::byte* to, std::span<const std::byte> from, bool around_cache,
            const std::byte* next = nullptr);
  uint32_t value() const;
  uint64_t bytes() const { return bytes_; }

  struct State {
    uint32_t crc[8] = {~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u};
  };

 private:
  State state_;
  uint64_t bytes_ = 0;
};

// Makes non-temporal stores visible before whatever is written next.
void finish_stores();

// True when this machine has the instructions: CRC32 (SSE4.2); carry-less products of 512 bits (AVX-512,
// VPCLMULQDQ). All ways give the same values.
bool has_hardware_checksum();
bool has_wide_checksum();

// Copies of at least this many bytes go around the cache.
inline constexpr size_t kAroundCacheBytes = 16 * 1024;

// What one call works on. `to` may be null: only the checksum.
struct ChecksumRun {
  std::byte* to = nullptr;
  const std::byte* from = nullptr;
  size_t bytes = 0;
  bool around_cache = false;
  const std::byte* next = nullptr;
};
// One instruction class each. Tests compare them.
void checksum_avx512(PieceChecksum::State& state, const ChecksumRun& run);
void checksum_sse42(PieceChecksum::State& state, const ChecksumRun& run);
void checksum_portable(PieceChecksum::State& state, const ChecksumRun& run);

}  // namespace baton::transport
