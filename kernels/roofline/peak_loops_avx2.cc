#include <immintrin.h>

#include "kernels/roofline/peak_loops.h"

namespace baton::kernels::roofline {
namespace {

constexpr int kChains = 12;
constexpr size_t kAhead = 1024;

uint64_t read_all(const std::byte* data, size_t bytes) {
  __m256i sum[8] = {};
  for (size_t at = 0; at < bytes; at += 256) {
#pragma GCC unroll 4
    for (size_t line = 0; line < 256; line += 64)
      _mm_prefetch(reinterpret_cast<const char*>(data + at + line + kAhead), _MM_HINT_T0);
    const auto* words = reinterpret_cast<const __m256i*>(data + at);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) sum[i] = _mm256_add_epi64(sum[i], _mm256_load_si256(words + i));
  }
  uint64_t total = 0;
  for (const __m256i& part : sum) total += static_cast<uint64_t>(_mm256_extract_epi64(part, 0));
  return total;
}

// maddubs, madd, add: the exact signed dot without VNNI.
float int8_dots(int64_t rounds) {
  __m256i acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = _mm256_set1_epi32(i);
  __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-2);
  const __m256i ones = _mm256_set1_epi16(1);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) {
      acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
      asm volatile("" : "+x"(a), "+x"(b));
    }
  }
  int64_t sum = 0;
  for (int i = 0; i < kChains; ++i) sum += _mm256_extract_epi32(acc[i], 0);
  return static_cast<float>(sum);
}

float f32_fmas(int64_t rounds) {
  __m256 acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = _mm256_set1_ps(static_cast<float>(i));
  __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(1e-3f);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) acc[i] = _mm256_fmadd_ps(acc[i], a, b);
    asm volatile("" : "+x"(a), "+x"(b));
  }
  float sum = 0;
  for (int i = 0; i < kChains; ++i) sum += _mm256_cvtss_f32(acc[i]);
  return sum;
}

}  // namespace

constinit const PeakLoops kAvx2PeakLoops = {
    .name = "avx2", .read = read_all, .int8 = {int8_dots, kChains * 64}, .f32 = {f32_fmas, kChains * 16}};

}  // namespace baton::kernels::roofline
