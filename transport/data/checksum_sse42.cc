// Built with -msse4.2: called only when has_hardware_checksum().
#include <immintrin.h>

#include <algorithm>

#include "transport/data/checksum.h"

namespace baton::transport {
namespace {

enum class Store { kNone, kCached, kAround };

// Blocks lie at random places: reading a page ahead hides its TLB miss, which the hardware's own prefetch
// does not. The last page of a run asks for the first of the next one (cold 16 KiB blocks are four pages).
constexpr size_t kReadAhead = 4096;

template <Store kStore>
void store(std::byte* to, __m128i value) {
  if constexpr (kStore == Store::kCached) _mm_storeu_si128(reinterpret_cast<__m128i*>(to), value);
  if constexpr (kStore == Store::kAround) _mm_stream_si128(reinterpret_cast<__m128i*>(to), value);
}

// One line: what is stored is what is summed, for both come from the same registers.
template <Store kStore>
void line(uint64_t (&crc)[8], std::byte* to, const std::byte* from) {
  __m128i part[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) part[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 16 * i));
  // The compiler must not load again.
  asm volatile("" : "+x"(part[0]), "+x"(part[1]), "+x"(part[2]), "+x"(part[3]));
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    if constexpr (kStore != Store::kNone) store<kStore>(to + 16 * i, part[i]);
    crc[2 * i] = _mm_crc32_u64(crc[2 * i], static_cast<uint64_t>(_mm_cvtsi128_si64(part[i])));
    crc[2 * i + 1] = _mm_crc32_u64(crc[2 * i + 1], static_cast<uint64_t>(_mm_extract_epi64(part[i], 1)));
  }
}

template <Store kStore>
void run_lines(PieceChecksum::State& state, const ChecksumRun& run) {
  uint64_t crc[8];
  std::copy_n(state.crc, 8, crc);
  const auto target = [&run](size_t at) { return kStore == Store::kNone ? nullptr : run.to + at; };
  const size_t tail = run.bytes > kReadAhead ? run.bytes - kReadAhead : 0;
  size_t at = 0;
  for (; at < tail; at += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(run.from + at + kReadAhead), _MM_HINT_T0);
    line<kStore>(crc, target(at), run.from + at);
  }
  for (const std::byte* next = run.next; at < run.bytes; at += 64) {
    if (next) _mm_prefetch(reinterpret_cast<const char*>(next + (at - tail)), _MM_HINT_T0);
    line<kStore>(crc, target(at), run.from + at);
  }
  for (int i = 0; i < 8; ++i) state.crc[i] = static_cast<uint32_t>(crc[i]);
}

}  // namespace

void checksum_sse42(PieceChecksum::State& state, const ChecksumRun& run) {
  if (!run.to) return run_lines<Store::kNone>(state, run);
  if (run.around_cache) return run_lines<Store::kAround>(state, run);
  run_lines<Store::kCached>(state, run);
}

}  // namespace baton::transport
