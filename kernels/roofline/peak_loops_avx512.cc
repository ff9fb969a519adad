#include <immintrin.h>

#include "kernels/roofline/peak_loops.h"

namespace baton::kernels::roofline {
namespace {

constexpr int kChains = 16;
constexpr size_t kAhead = 1024;

uint64_t read_all(const std::byte* data, size_t bytes) {
  __m512i sum[8] = {};
  for (size_t at = 0; at < bytes; at += 512) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      _mm_prefetch(reinterpret_cast<const char*>(data + at + i * 64 + kAhead), _MM_HINT_T0);
      sum[i] = _mm512_add_epi64(sum[i], _mm512_load_si512(data + at + i * 64));
    }
  }
  __m512i total = sum[0];
  for (int i = 1; i < 8; ++i) total = _mm512_add_epi64(total, sum[i]);
  return static_cast<uint64_t>(_mm512_reduce_add_epi64(total));
}

float int8_dots(int64_t rounds) {
  __m512i acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = _mm512_set1_epi32(i);
  __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-2);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) acc[i] = _mm512_dpbusd_epi32(acc[i], a, b);
    asm volatile("" : "+v"(a), "+v"(b));
  }
  int64_t sum = 0;
  for (int i = 0; i < kChains; ++i) sum += _mm512_reduce_add_epi32(acc[i]);
  return static_cast<float>(sum);
}

float f32_fmas(int64_t rounds) {
  __m512 acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = _mm512_set1_ps(static_cast<float>(i));
  __m512 a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(1e-3f);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) acc[i] = _mm512_fmadd_ps(acc[i], a, b);
    asm volatile("" : "+v"(a), "+v"(b));
  }
  float sum = 0;
  for (int i = 0; i < kChains; ++i) sum += _mm512_reduce_add_ps(acc[i]);
  return sum;
}

}  // namespace

constinit const PeakLoops kAvx512PeakLoops = {.name = "avx512-vnni",
                                              .read = read_all,
                                              .int8 = {int8_dots, kChains * 128},
                                              .f32 = {f32_fmas, kChains * 32}};

}  // namespace baton::kernels::roofline
