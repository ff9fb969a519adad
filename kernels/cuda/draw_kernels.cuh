#pragma once

#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/kernel_arguments.h"
#include "kernels/cuda/step_tables.h"

// Draws a token from each logit row, as worker/model/sampler.h does on the host: the same weights (in double,
// the same exponential), the same order of the steps, ties to the lower id. Sums of weights are integers
// here, of units of 2^-45: no order of summation is left, so any number of threads makes the same token. (The
// host adds doubles by ascending id, and ranks by them: the two can differ when a random number falls within
// 1e-9 of a boundary, or when logits are so close that a double cannot tell their weights apart.)
//
// top-k, min-p and top-p all keep the likeliest tokens up to some point: one Cut is all that is carried from
// step to step. A point is found by a histogram over how far below the largest logit a token is, then by the
// digits of the logits of one of its bins.
//
// What log-probabilities are made of (DrawReport) is found first, of the logits as they came, in the same
// ways: their sum and the likeliest ones; the drawn token's own logit is noted by whoever changes it.
//
// Roofline: a row of V logits is read from L2 once when greedy, about eight times with top-p, 4V bytes each;
// weights cost about 40 double operations a token, once (64 a cycle and SM: 95,000 cycles for V = 152,000).
// One block a row. Include device_words.cuh (or its emulation) first.
namespace baton::kernels::cuda {

inline constexpr int kDrawThreads = 1024, kDrawWarps = kDrawThreads / 32;
inline constexpr int kCoarseBins = 2048;  // of 1/64 of the temperature each; the last takes the rest
using Mass = unsigned long long;

struct DrawScratch {
  Mass bins[kCoarseBins];
  Mass warps[kDrawWarps];
  Mass left;
  int32_t place;
  int32_t flags;
  int32_t count;
};

// The least likely token that is kept: more likely ones, and equally likely ones of lower or the same id, are
// too.
struct Cut {
  uint32_t key = 0;
  int32_t id = 0x7fffffff;
  __device__ bool keeps(uint32_t other_key, int32_t other_id) const {
    return other_key > key || (other_key == key && other_id <= id);
  }
};

// Larger for larger logits; -0 is 0.
__device__ inline uint32_t likelihood(float logit) {
  const uint32_t bits = __float_as_uint(logit + 0.0f);
  return bits ^ (bits >> 31 != 0 ? 0xffffffffu : 0x80000000u);
}

// One row while a token is drawn from it. A warp owns vocab / 32 consecutive ids.
struct DrawnRow {
  const float* logits;
  int vocab;
  float max;
  double temperature, min_p;
  Cut cut;
  int first, end;  // the warp's ids

  __device__ double weight(float logit) const {
    return exponential_double((static_cast<double>(logit) - static_cast<double>(max)) / temperature);
  }
  __device__ Mass mass(float logit) const {
    const double w = weight(logit);
    return w < min_p ? 0 : static_cast<Mass>(w * 0x1p45 + 0.5);
  }
  __device__ int coarse_bin(float logit) const {
    const float below = (max - logit) * (64.0f / static_cast<float>(temperature));
    return below < static_cast<float>(kCoarseBins - 1) ? static_cast<int>(below) : kCoarseBins - 1;
  }
};

__device__ inline Mass warp_prefix(Mass value) {  // inclusive
  const int lane = threadIdx.x % 32;
  for (int apart = 1; apart < 32; apart *= 2) {
    const Mass other = __shfl_up_sync(0xffffffffu, value, apart);
    if (lane >= apart) value += other;
  }
  return value;
}

// The first of `count` bins at which the sum reaches s.left, which becomes what is missing before it; in
// s.place.
__device__ inline void find_bin(DrawScratch& s, int count) {
  __syncthreads();
  if (threadIdx.x < 32) {
    const int lane = threadIdx.x, each = count / 32;
    Mass sum = 0;
    for (int i = 0; i < each; ++i) sum += s.bins[lane * each + i];
    const Mass reached = warp_prefix(sum), wanted = s.left;
    const uint32_t lanes = __ballot_sync(0xffffffffu, reached >= wanted);
    if (lanes != 0 && lane == __ffs(lanes) - 1) {
      Mass above = reached - sum;
      int bin = lane * each;
      while (above + s.bins[bin] < wanted) above += s.bins[bin++];
      s.place = bin, s.left = wanted - above;
    }
  }
  __syncthreads();
}

__device__ inline void clear_bins(DrawScratch& s, int count) {
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += kDrawThreads) s.bins[i] = 0;
  __syncthreads();
}

__device__ inline Mass sum_of_bins(const DrawScratch& s) {  // in warp 0
  Mass sum = 0;
  for (int i = threadIdx.x; i < kCoarseBins; i += 32) sum += s.bins[i];
  for (int apart = 16; apart >= 1; apart /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, apart);
  return sum;
}

// The sum of `measure` in the order of the ids, and the first id at which it reaches target(sum), in every
// thread.
template <class Measure, class Target>
__device__ inline int locate(DrawScratch& s, const DrawnRow& row, Measure measure, Target target) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  Mass sum = 0;
  for (int id = row.first + lane; id < row.end; id += 32) sum += measure(row.logits[id], id);
  for (int apart = 16; apart >= 1; apart /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, apart);
  if (lane == 0) s.warps[warp] = sum;
  __syncthreads();
  if (warp == 0) {
    const Mass mine = s.warps[lane], reached = warp_prefix(mine);
    const Mass wanted = target(__shfl_sync(0xffffffffu, reached, 31));
    const uint32_t lanes = __ballot_sync(0xffffffffu, reached >= wanted);
    if (lanes != 0 && lane == __ffs(lanes) - 1) s.place = lane, s.left = wanted - (reached - mine);
  }
  __syncthreads();
  const Mass wanted = s.left;
  const bool here = warp == s.place;
  __syncthreads();
  Mass before = 0;
  for (int begin = row.first; here && begin < row.end; begin += 32) {
    const int id = begin + lane;
    const Mass reached = before + warp_prefix(id < row.end ? measure(row.logits[id], id) : 0);
    const uint32_t lanes = __ballot_sync(0xffffffffu, reached >= wanted);
    if (lanes != 0) {
      if (lane == __ffs(lanes) - 1) s.place = id;
      break;
    }
    before = __shfl_sync(0xffffffffu, reached, 31);
  }
  __syncthreads();
  return s.place;
}

// The cut at which the sum of `measure` over the kept tokens, likeliest first, reaches target(whole sum).
template <class Measure, class Target>
__device__ inline Cut select(DrawScratch& s, const DrawnRow& row, Measure measure, Target target) {
  const int lane = threadIdx.x % 32;
  clear_bins(s, kCoarseBins);
  for (int id = row.first + lane; id < row.end; id += 32) {
    const float logit = row.logits[id];
    if (row.cut.keeps(likelihood(logit), id)) atomicAdd(&s.bins[row.coarse_bin(logit)], measure(logit));
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    const Mass sum = sum_of_bins(s);
    if (lane == 0) s.left = target(sum);
  }
  find_bin(s, kCoarseBins);
  const int bin = s.place;
  uint32_t key = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    clear_bins(s, 256);
    for (int id = row.first + lane; id < row.end; id += 32) {
      const float logit = row.logits[id];
      const uint32_t k = likelihood(logit);
      const bool inside = row.coarse_bin(logit) == bin && (k ^ key) >> shift < 256u && row.cut.keeps(k, id);
      if (inside) atomicAdd(&s.bins[255 - (k >> shift & 255)], measure(logit));
    }
    find_bin(s, 256);
    key |= static_cast<uint32_t>(255 - s.place) << shift;
  }
  const float least = __uint_as_float(key ^ (key >> 31 != 0 ? 0x80000000u : 0xffffffffu));
  const Mass each = measure(least), equal = (s.left + each - 1) / each;
  __syncthreads();
  const int id = locate(
      s, row, [&](float logit, int id) { return Mass{likelihood(logit) == key && row.cut.keeps(key, id)}; },
      [&](Mass) { return equal; });
  return {key, id};
}

// Returns what the logit was.
__device__ inline float change_logit(const DrawRow& r, const LogitChange& c, float* logits) {
  const float raw = logits[c.id];
  float x = raw;
  if (c.flags & LogitChange::kBiased) x += c.bias;
  if (c.flags & LogitChange::kMasked) x = -INFINITY;
  if (c.flags & LogitChange::kSeen) {
    x = x > 0 ? x / r.repetition : x * r.repetition;
    if (c.count > 0) {
      x -= r.frequency * static_cast<float>(c.count);
      x -= r.presence;
    }
  }
  logits[c.id] = x;
  return raw;
}

// The row's changes; each id stands once, so a thread owns it. `own`: the token of the output that the caller
// did not count, or -1; it takes the last change's place when it has none.
__device__ inline void change_logits(DrawScratch& s, const DrawRow& r, LogitChange* changes, int own,
                                     float* logits) {
  if (threadIdx.x == 0) s.flags = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < r.changes; i += kDrawThreads) {
    LogitChange c = changes[r.first_change + i];
    if (c.id < 0) continue;
    if (c.id == own) c.flags |= LogitChange::kSeen, ++c.count, s.flags = 1;
    changes[r.first_change + i].raw = change_logit(r, c, logits);
  }
  __syncthreads();
  if (threadIdx.x == 0 && own >= 0 && s.flags == 0) {
    LogitChange& last = changes[r.first_change + r.changes - 1];
    last = {.id = own, .bias = 0, .count = 1, .flags = LogitChange::kSeen, .raw = 0};
    last.raw = change_logit(r, last, logits);
  }
  __syncthreads();
}

// The likeliest token, lowest id first, and whether all logits are finite (of the raw ones) and none is NaN.
struct Largest {
  int id;
  bool finite;
};
__device__ inline Largest largest_logit(DrawScratch& s, const DrawnRow& row) {
  Mass best = 0;  // likelihood, then the id counted down
  bool finite = true;
  for (int id = row.first + threadIdx.x % 32; id < row.end; id += 32) {
    const float logit = row.logits[id];
    finite = finite && (__float_as_uint(logit) & 0x7f800000u) != 0x7f800000u;
    const Mass candidate = Mass{likelihood(logit)} << 32 | (0xffffffffu - static_cast<uint32_t>(id));
    best = candidate > best ? candidate : best;
  }
  for (int apart = 16; apart >= 1; apart /= 2) {
    const Mass other = __shfl_xor_sync(0xffffffffu, best, apart);
    best = other > best ? other : best;
  }
  const uint32_t bad = __ballot_sync(0xffffffffu, !finite);
  if (threadIdx.x == 0) s.flags = 0;
  __syncthreads();
  if (threadIdx.x % 32 == 0) s.warps[threadIdx.x / 32] = best;
  if (bad != 0) s.flags = 1;
  __syncthreads();
  for (int w = 0; w < kDrawWarps; ++w) best = s.warps[w] > best ? s.warps[w] : best;
  const Largest out = {static_cast<int>(0xffffffffu - static_cast<uint32_t>(best)), s.flags == 0};
  __syncthreads();
  return out;
}

__device__ inline int draw_token(DrawScratch& s, const DrawRow& r, DrawnRow& row) {
  row.temperature = static_cast<double>(r.temperature);
  row.min_p = 0;
  if (r.top_k > 0)
    row.cut = select(s, row, [](float) { return Mass{1}; }, [&](Mass) { return static_cast<Mass>(r.top_k); });
  row.min_p = r.min_p > 0 ? (r.min_p < 1 ? static_cast<double>(r.min_p) : 1.0) : 0.0;
  if (r.top_p < 1)
    row.cut = select(
        s, row, [&](float logit) { return row.mass(logit); },
        [&](Mass sum) {  // rounded up: the mass that is at least top_p of the whole
          const double share = (r.top_p > 0 ? static_cast<double>(r.top_p) : 0.0) * static_cast<double>(sum);
          const Mass whole = static_cast<Mass>(share),
                     wanted = static_cast<double>(whole) < share ? whole + 1 : whole;
          return wanted < 1 ? Mass{1} : wanted > sum ? sum : wanted;
        });
  return locate(
      s, row,
      [&](float logit, int id) { return row.cut.keeps(likelihood(logit), id) ? row.mass(logit) : Mass{0}; },
      [&](Mass sum) {
        const Mass t = static_cast<Mass>(r.uniform * static_cast<double>(sum));
        return (t < sum ? t : sum - 1) + 1;
      });
}

// Of logits that nothing has changed yet: all but the drawn token's.
__device__ inline void report_row(DrawScratch& s, const DrawRow& r, DrawnRow row, float largest,
                                  DrawReport& out) {
  row.max = largest;
  Mass sum = 0;
  for (int id = row.first + threadIdx.x % 32; id < row.end; id += 32) sum += row.mass(row.logits[id]);
  for (int apart = 16; apart >= 1; apart /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, apart);
  if (threadIdx.x % 32 == 0) s.warps[threadIdx.x / 32] = sum;
  if (threadIdx.x == 0) s.count = 0;
  __syncthreads();
  if (threadIdx.x == 0) {
    sum = 0;
    for (int w = 0; w < kDrawWarps; ++w) sum += s.warps[w];
    out.mass = sum, out.largest = largest;
  }
  __syncthreads();  // whoever sums next writes there again
  if (r.report == 0) return;
  const Cut cut =
      select(s, row, [](float) { return Mass{1}; }, [&](Mass) { return static_cast<Mass>(r.report); });
  for (int id = row.first + threadIdx.x % 32; id < row.end; id += 32)
    if (cut.keeps(likelihood(row.logits[id]), id)) out.top[atomicAdd(&s.count, 1)] = {id, row.logits[id]};
}

// What the token's logit was before the row's changes: each of them has noted it.
__device__ inline void report_token(const DrawRow& r, const LogitChange* changes, const float* logits,
                                    int token, DrawReport& out) {
  if (threadIdx.x == 0) out.logit = logits[token];
  __syncthreads();
  for (int i = threadIdx.x; i < r.changes; i += kDrawThreads)
    if (changes[r.first_change + i].id == token) out.logit = changes[r.first_change + i].raw;
}

// Grid: rows; kDrawThreads; shared: DrawScratch. Changes the logits of the rows it draws from.
__global__ void __launch_bounds__(kDrawThreads) draw_kernel(StepTables step, DrawArgs a) {
  begin_kernel();
  const int64_t r = blockIdx.x;
  if (r >= step.counts[kLogitRows]) return;
  DrawnToken& out = a.out[r];
  const DrawRow& draw = step.draws[r];
  if (draw.wanted == 0) {
    if (threadIdx.x == 0) out = {-1, DrawnToken::kNone};
    return;
  }
  DrawScratch& s = *reinterpret_cast<DrawScratch*>(shared_memory());
  float* logits = a.logits + r * a.vocab;
  const int each = (a.vocab + kDrawThreads - 1) / kDrawThreads * 32, warp = threadIdx.x / 32;
  DrawnRow row = {.logits = logits, .vocab = a.vocab, .max = 0, .temperature = 1, .min_p = 0, .cut = {}};
  row.first = warp * each < a.vocab ? warp * each : a.vocab;
  row.end = row.first + each < a.vocab ? row.first + each : a.vocab;
  Largest largest = largest_logit(s, row);
  int32_t state = largest.finite ? DrawnToken::kDrawn : DrawnToken::kNotFinite;
  if (state == DrawnToken::kDrawn && draw.report >= 0)
    report_row(s, draw, row, logits[largest.id], a.reports[r]);
  if (state == DrawnToken::kDrawn && draw.changes > 0) {
    const bool counts_own = step.changes[draw.first_change + draw.changes - 1].id < 0;
    const int own = counts_own ? step.tokens[step.logit_rows[r]] : -1;
    change_logits(s, draw, step.changes, own, logits);
    largest = largest_logit(s, row);
  }
  row.max = logits[largest.id];
  if (state == DrawnToken::kDrawn && (__float_as_uint(row.max) & 0x7f800000u) == 0x7f800000u)
    state = DrawnToken::kNothingLeft;
  const bool draws = state == DrawnToken::kDrawn && draw.temperature > 0;
  const int token = draws ? draw_token(s, draw, row) : largest.id;
  if (threadIdx.x == 0) out = {state == DrawnToken::kDrawn ? token : -1, state};
  if (state == DrawnToken::kDrawn && draw.report >= 0)
    report_token(draw, step.changes, logits, token, a.reports[r]);
}

}  // namespace baton::kernels::cuda
