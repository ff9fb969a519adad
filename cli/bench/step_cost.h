#pragma once

#include <string>

#include "kernels/backend.h"
#include "kernels/roofline/ceilings.h"
#include "worker/model/weights.h"

namespace baton::cli {

// What was counted: bytes read from memory, operations of matrices by the kind of arithmetic they allow.
struct Counted {
  double bytes = 0;
  double int8 = 0, bf16 = 0, f32 = 0;

  double operations() const { return int8 + bf16 + f32; }
  Counted& operator+=(const Counted& o) {
    bytes += o.bytes;
    int8 += o.int8;
    bf16 += o.bf16;
    f32 += o.f32;
    return *this;
  }
};

// The kind most operations are: int8, bf16 or f32.
std::string kind_of(const Counted& counted);
// The peak of that kind. A processor without bf16 dots multiplies bf16 weights at its f32 rate.
double peak_of(const Counted& counted, const kernels::roofline::Peaks& peaks);
// The least time the operations can take.
double compute_seconds(const Counted& counted, const kernels::roofline::Peaks& peaks);

// Counts what a step of one model must read and compute. Quantised weights count as int8 operations, bf16 as
// bf16, f16 and f32 as f32; a multiplication and an addition are two. Immutable. Worked: SmolLM2 Q4_1 with
// its Q8_0 head, one row at context 100 in bf16: 96.5 MB of weights + 100 * 23,040 B of KV; 2 * 106.2 M + 2 *
// 28.3 M operations.
class StepCost {
 public:
  StepCost(const worker::ModelSpec& spec, const worker::ModelWeights& weights, size_t weight_bytes,
           const kernels::KvGeometry& kv);

  // `rows` through the layers, `logit_rows` of them through the head, `attended` KV positions read. Behind
  // the last layer's attention only the logit rows go on.
  Counted step(int64_t rows, int64_t logit_rows, int64_t attended) const;
  // KV positions that the last of `positions` reads: all of them, or those of the window.
  int64_t attended(int64_t positions) const;

  double kv_bytes_per_token() const { return kv_bytes_; }
  // The matrices as the file holds them; packed they may take more (K formats).
  double file_bytes() const { return layers_.bytes + end_.bytes; }
  double parameters() const { return parameters_; }
  // The type of most layer weights, and the head's: "Q4_1", or "Q4_1, head Q8_0".
  const std::string& format() const { return format_; }

 private:
  double weight_bytes_;
  double kv_bytes_;
  int32_t window_;
  double parameters_ = 0;
  Counted layers_, end_;  // of one row: up to the last layer's attention, and from there on
  std::string format_;
};

}  // namespace baton::cli
