#include <cstring>

#include "kernels/roofline/peak_loops.h"

namespace baton::kernels::roofline {
namespace {

// Four chains of four hide the latency of plain SSE2 arithmetic.
constexpr int kLanes = 16;

uint64_t read_all(const std::byte* data, size_t bytes) {
  uint64_t sum[8] = {};
  for (size_t at = 0; at < bytes; at += sizeof sum) {
    uint64_t line[8];
    std::memcpy(line, data + at, sizeof line);
    for (int i = 0; i < 8; ++i) sum[i] += line[i];
  }
  return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

float int8_dots(int64_t rounds) {
  int32_t sum[kLanes] = {};
  int8_t a[kLanes], b[kLanes];
  std::memset(a, 3, sizeof a);
  std::memset(b, 2, sizeof b);
  for (int64_t r = 0; r < rounds; ++r) {
    for (int i = 0; i < kLanes; ++i) sum[i] += int32_t{a[i]} * b[i];
    asm volatile("" : "+m"(a), "+m"(b));
  }
  int64_t total = 0;
  for (const int32_t s : sum) total += s;
  return static_cast<float>(total);
}

float f32_products(int64_t rounds) {
  float sum[kLanes] = {}, a[kLanes], b[kLanes];
  for (int i = 0; i < kLanes; ++i) a[i] = 0.5f, b[i] = 1e-3f;
  for (int64_t r = 0; r < rounds; ++r) {
    for (int i = 0; i < kLanes; ++i) sum[i] = sum[i] * a[i] + b[i];
    asm volatile("" : "+m"(a), "+m"(b));
  }
  float total = 0;
  for (const float s : sum) total += s;
  return total;
}

}  // namespace

constinit const PeakLoops kScalarPeakLoops = {
    .name = "scalar", .read = read_all, .int8 = {int8_dots, kLanes * 2}, .f32 = {f32_products, kLanes * 2}};

}  // namespace baton::kernels::roofline
