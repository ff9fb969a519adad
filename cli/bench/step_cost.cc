#include "cli/bench/step_cost.h"

#include <algorithm>
#include <map>

#include "base/cat.h"
#include "kernels/dequantize.h"
#include "kernels/quant_block.h"

namespace baton::cli {
namespace {

using kernels::WeightView;

double elements(const WeightView& w) { return static_cast<double>(w.rows) * static_cast<double>(w.cols); }

void count(const WeightView& w, Counted& to) {
  double& kind = kernels::is_quantised(w.type) ? to.int8 : w.type == DType::kBF16 ? to.bf16 : to.f32;
  kind += 2 * elements(w);
  to.bytes += static_cast<double>(*kernels::row_bytes(w.type, w.cols)) * static_cast<double>(w.rows);
}

}  // namespace

std::string kind_of(const Counted& c) {
  if (c.int8 >= c.bf16 && c.int8 >= c.f32) return "int8";
  return c.bf16 >= c.f32 ? "bf16" : "f32";
}

double peak_of(const Counted& counted, const kernels::roofline::Peaks& peaks) {
  const std::string kind = kind_of(counted);
  if (kind == "int8") return peaks.int8;
  return kind == "bf16" && peaks.bf16 > 0 ? peaks.bf16 : peaks.f32;
}

double compute_seconds(const Counted& c, const kernels::roofline::Peaks& peaks) {
  const auto share = [](double operations, double peak) { return operations > 0 ? operations / peak : 0; };
  return share(c.int8, peaks.int8) + share(c.bf16, peaks.bf16 > 0 ? peaks.bf16 : peaks.f32) +
         share(c.f32, peaks.f32);
}

StepCost::StepCost(const worker::ModelSpec& spec, const worker::ModelWeights& weights, size_t weight_bytes,
                   const kernels::KvGeometry& kv)
    : weight_bytes_(static_cast<double>(weight_bytes)),
      kv_bytes_(static_cast<double>(kv.piece_bytes()) * kv.layers / kv.block_tokens),
      window_(spec.window) {
  std::map<DType, double> by_type;
  for (const worker::LayerWeights& layer : weights.layers) {
    for (const WeightView* w : {&layer.q, &layer.k, &layer.v}) count(*w, layers_);
    for (const WeightView* w : {&layer.o, &layer.gate, &layer.up, &layer.down})
      count(*w, &layer == &weights.layers.back() ? end_ : layers_);
    for (const WeightView* w :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      by_type[w->type] += elements(*w);
      parameters_ += elements(*w);
    }
  }
  count(weights.head, end_);
  parameters_ += elements(weights.embedding) + (spec.tied_head ? 0 : elements(weights.head));
  const DType most = std::ranges::max_element(by_type, {}, [](const auto& e) { return e.second; })->first;
  format_ = traits_of(most).name;
  if (weights.head.type != most) format_ += cat(", head ", traits_of(weights.head.type).name);
}

Counted StepCost::step(int64_t rows, int64_t logit_rows, int64_t attended) const {
  const auto r = static_cast<double>(rows), l = static_cast<double>(logit_rows);
  const double weights = logit_rows > 0 ? weight_bytes_ : weight_bytes_ - end_.bytes;
  return {.bytes = weights + static_cast<double>(attended) * kv_bytes_,
          .int8 = layers_.int8 * r + end_.int8 * l,
          .bf16 = layers_.bf16 * r + end_.bf16 * l,
          .f32 = layers_.f32 * r + end_.f32 * l};
}

int64_t StepCost::attended(int64_t positions) const {
  return window_ > 0 ? std::min<int64_t>(positions, window_) : positions;
}

}  // namespace baton::cli
