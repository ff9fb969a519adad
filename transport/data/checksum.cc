#include "transport/data/checksum.h"

#include <immintrin.h>

#include <array>
#include <cstring>

#include "base/check.h"

namespace baton::transport {
namespace {

// Slicing by 8 (Kounavis and Berry 2005): table[k][b] is the CRC of byte b followed by k zero bytes.
using Tables = std::array<std::array<uint32_t, 256>, 8>;

constexpr Tables make_tables() {
  constexpr uint32_t kCastagnoli = 0x82F63B78u;  // reflected
  Tables t{};
  for (uint32_t b = 0; b < 256; ++b) {
    uint32_t crc = b;
    for (int i = 0; i < 8; ++i) crc = (crc >> 1) ^ ((crc & 1) ? kCastagnoli : 0);
    t[0][b] = crc;
  }
  for (uint32_t b = 0; b < 256; ++b)
    for (size_t k = 1; k < 8; ++k) t[k][b] = (t[k - 1][b] >> 8) ^ t[0][t[k - 1][b] & 0xff];
  return t;
}
constexpr Tables kTables = make_tables();

uint32_t crc_word(uint32_t crc, uint64_t word) {
  word ^= crc;
  uint32_t out = 0;
  for (int i = 0; i < 8; ++i) out ^= kTables[7 - i][(word >> (8 * i)) & 0xff];
  return out;
}

}  // namespace

void checksum_portable(PieceChecksum::State& state, const ChecksumRun& run) {
  for (size_t at = 0; at < run.bytes; at += 64) {
    uint64_t words[8];
    std::memcpy(words, run.from + at, sizeof words);
    asm volatile("" ::: "memory");  // no second load: what is stored is what is summed
    for (int i = 0; i < 8; ++i) state.crc[i] = crc_word(state.crc[i], words[i]);
    if (run.to) std::memcpy(run.to + at, words, sizeof words);
  }
}

bool has_hardware_checksum() { return __builtin_cpu_supports("sse4.2"); }

bool has_wide_checksum() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("vpclmulqdq") && has_hardware_checksum();
}

void PieceChecksum::add(std::span<const std::byte> bytes, const std::byte* next) {
  copy(nullptr, bytes, false, next);
}

void PieceChecksum::copy(std::byte* to, std::span<const std::byte> from, bool around_cache,
                         const std::byte* next) {
  BATON_CHECK(from.size() % 64 == 0);
  bytes_ += from.size();
  const bool whole_lines = reinterpret_cast<uintptr_t>(to) % 64 == 0;
  const ChecksumRun run{.to = to,
                        .from = from.data(),
                        .bytes = from.size(),
                        .around_cache = around_cache && to != nullptr && whole_lines,
                        .next = next};
  static const auto kFastest = has_wide_checksum()       ? checksum_avx512
                               : has_hardware_checksum() ? checksum_sse42
                                                         : checksum_portable;
  kFastest(state_, run);
}

uint32_t PieceChecksum::value() const {
  uint32_t crc = ~0u;
  for (uint32_t lane : state_.crc) crc = crc_word(crc, ~lane);
  return ~crc_word(crc, bytes_);
}

void finish_stores() { _mm_sfence(); }

}  // namespace baton::transport
