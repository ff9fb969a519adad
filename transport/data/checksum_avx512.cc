// Built with AVX-512 and VPCLMULQDQ: called only when has_wide_checksum().
#include <immintrin.h>

#include <algorithm>
#include <cstdint>

#include "transport/data/checksum.h"

namespace baton::transport {
namespace {

enum class Store { kNone, kCached, kAround };

// Measured on cold blocks at random places, 16 KiB to 1 MiB: two pages ahead beat one by 5 %; a line of the
// target two pages ahead, only for the sake of its page's translation, gave 2 to 5 % more.
constexpr size_t kPage = 4096;
constexpr size_t kReadAhead = 2 * kPage;

// x^n modulo the Castagnoli polynomial, bits reflected.
constexpr uint32_t x_to_the(int n) {
  uint32_t power = 0x80000000u;
  for (; n > 0; --n) power = (power >> 1) ^ ((power & 1) ? 0x82F63B78u : 0);
  return power;
}

// Two lines, as eight columns of two words each: the even columns stand in one register, the odd ones in the
// other, a column to 128 bits. Each is the rest of a long division that is not carried out: folding
// multiplies it by x^128, which makes room for the next two words (Gopal et al. 2009, "Fast CRC
// computation").
struct Columns {
  __m512i even = _mm512_setzero_si512();
  __m512i odd = _mm512_setzero_si512();

  static __m512i folded(__m512i rest, __m512i words) {
    // The low half holds the higher powers, 64 of them. 33 less: a product of reflected numbers lies a bit
    // too low, and the factor has 32 bits where 64 are multiplied.
    constexpr uint32_t kLow = x_to_the(128 + 64 - 33);
    constexpr uint32_t kHigh = x_to_the(128 - 33);
    const __m512i by = _mm512_set4_epi32(0, static_cast<int>(kHigh), 0, static_cast<int>(kLow));
    constexpr int kXor3 = 0x96;
    return _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(rest, by, 0x00),
                                     _mm512_clmulepi64_epi128(rest, by, 0x11), words, kXor3);
  }
  void add(__m512i first, __m512i second) {
    even = folded(even, _mm512_unpacklo_epi64(first, second));
    odd = folded(odd, _mm512_unpackhi_epi64(first, second));
  }
  // The division, at last.
  void finish(uint32_t (&crc)[8]) const {
    alignas(64) uint64_t words[2][8];
    _mm512_store_si512(words[0], even);
    _mm512_store_si512(words[1], odd);
    for (size_t i = 0; i < 8; ++i) {
      const uint64_t* rest = words[i % 2] + i / 2 * 2;
      crc[i] = static_cast<uint32_t>(_mm_crc32_u64(_mm_crc32_u64(0, rest[0]), rest[1]));
    }
  }
};

// One line: what is stored is what is summed, for both come from the same register.
template <Store kStore>
__m512i line(const ChecksumRun& run, size_t at) {
  __m512i value = _mm512_loadu_si512(run.from + at);
  asm volatile("" : "+v"(value));  // the compiler must not load again
  if constexpr (kStore == Store::kCached) _mm512_storeu_si512(run.to + at, value);
  if constexpr (kStore == Store::kAround) _mm512_stream_si512(reinterpret_cast<__m512i*>(run.to + at), value);
  return value;
}

// Where lines that are asked for wait. What is only summed is about to be sent: in the first cache. What a
// copy reads nobody here wants again: AMD's processors keep it out of the second cache; Intel's (Granite
// Rapids) lose such lines before they are read and copy half as much as with lines that wait in the second.
constexpr _mm_hint kSummed = _MM_HINT_T0;
constexpr _mm_hint kCopied = _MM_HINT_NTA;
constexpr _mm_hint kCopiedOnIntel = _MM_HINT_T1;

template <Store kStore, _mm_hint kHint>
void run_lines(PieceChecksum::State& state, const ChecksumRun& run) {
  Columns columns;
  __m512i start = _mm512_cvtepu32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(state.crc)));
  const size_t ahead = std::min(kReadAhead, run.bytes);
  for (size_t at = 0; at < run.bytes;) {
    const size_t end = std::min(at + kPage, run.bytes);
    if (kStore == Store::kAround && at + kReadAhead < run.bytes)
      _mm_prefetch(reinterpret_cast<const char*>(run.to + at + kReadAhead), _MM_HINT_T0);
    // Past the end: the run that follows, or what is in the cache already.
    const std::byte* later = run.from + at + ahead;
    if (at + ahead >= run.bytes) later = run.next ? run.next + (at + ahead - run.bytes) : run.from + at;
    for (; at < end; at += 128, later += 128) {
      _mm_prefetch(reinterpret_cast<const char*>(later), kHint);
      _mm_prefetch(reinterpret_cast<const char*>(later + 64), kHint);
      const __m512i first = line<kStore>(run, at);
      columns.add(_mm512_xor_si512(first, start), line<kStore>(run, at + 64));
      start = _mm512_setzero_si512();
    }
  }
  columns.finish(state.crc);
}

template <Store kStore>
void copy_lines(PieceChecksum::State& state, const ChecksumRun& run) {
  static const bool kIntel = __builtin_cpu_is("intel") != 0;
  if (kIntel) return run_lines<kStore, kCopiedOnIntel>(state, run);
  run_lines<kStore, kCopied>(state, run);
}

}  // namespace

void checksum_avx512(PieceChecksum::State& state, const ChecksumRun& run) {
  // Short runs are not worth the divisions at their end, a last single line has no second.
  constexpr size_t kShort = 512;
  const size_t wide = run.bytes < kShort ? 0 : run.bytes / 128 * 128;
  ChecksumRun lines = run;
  lines.bytes = wide;
  if (wide > 0 && !run.to) run_lines<Store::kNone, kSummed>(state, lines);
  if (wide > 0 && run.to && run.around_cache) copy_lines<Store::kAround>(state, lines);
  if (wide > 0 && run.to && !run.around_cache) copy_lines<Store::kCached>(state, lines);
  if (wide == run.bytes) return;
  ChecksumRun rest = run;
  rest.from += wide;
  rest.bytes -= wide;
  if (run.to) rest.to += wide;
  checksum_sse42(state, rest);
}

}  // namespace baton::transport
