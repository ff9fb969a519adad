#include "worker/model/model_spec.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numbers>

#include "base/cat.h"

namespace baton::worker {
namespace {

struct Bound {
  const char* what;
  int64_t value;
  int64_t limit;
};

absl::Status refuse(const std::string& file, const std::string& what) {
  return absl::InvalidArgumentError(cat(file, ": ", what));
}

std::string exact(double value) {
  char text[64];
  std::snprintf(text, sizeof(text), "%a", value);
  return text;
}

absl::Status check_rope(const std::string& file, const ModelSpec& spec) {
  const RopeSettings& rope = spec.rope;
  const auto positive = [](double v) { return std::isfinite(v) && v > 0; };
  if (!positive(rope.base) || rope.base <= 1.0) return refuse(file, "rope base: want a number above 1");
  if (rope.dims < 2 || rope.dims % 2 != 0 || rope.dims > spec.head_dim)
    return refuse(file, cat("rope dimensions ", rope.dims, ": want an even number up to the head size ",
                            spec.head_dim));
  if (!positive(rope.factor) || !positive(rope.attention_factor) || !positive(rope.beta_fast) ||
      !positive(rope.beta_slow) || !positive(rope.low_freq_factor) || !positive(rope.high_freq_factor))
    return refuse(file, "rope scaling: want positive numbers");
  const bool needs_original = rope.scaling == RopeScaling::kLlama3 || rope.scaling == RopeScaling::kYarn;
  if (needs_original && (rope.original_context < 1 || rope.original_context > (int64_t{1} << 24)))
    return refuse(file, cat("rope scaling: original context ", rope.original_context, " is out of range"));
  if (rope.scaling == RopeScaling::kLlama3 && rope.high_freq_factor <= rope.low_freq_factor)
    return refuse(file, "rope scaling llama3: high_freq_factor must be above low_freq_factor");
  if (!rope.divisors.empty() && rope.divisors.size() != static_cast<size_t>(rope.dims / 2))
    return refuse(file, cat("rope_freqs: ", rope.divisors.size(), " values, want ", rope.dims / 2));
  if (!std::all_of(rope.divisors.begin(), rope.divisors.end(), positive))
    return refuse(file, "rope_freqs: want positive finite numbers");
  return absl::OkStatus();
}

double llama3_scaled(const RopeSettings& rope, double inv_freq) {
  const double wavelength = 2 * std::numbers::pi / inv_freq;
  const double original = static_cast<double>(rope.original_context);
  if (wavelength < original / rope.high_freq_factor) return inv_freq;
  if (wavelength > original / rope.low_freq_factor) return inv_freq / rope.factor;
  const double smooth =
      (original / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return (1 - smooth) * inv_freq / rope.factor + smooth * inv_freq;
}

// The dimension whose wavelength turns `rotations` times over the original context.
double yarn_dimension(const RopeSettings& rope, double rotations) {
  return rope.dims *
         std::log(static_cast<double>(rope.original_context) / (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(rope.base));
}

double yarn_scaled(const RopeSettings& rope, double inv_freq, int i) {
  const double low = std::max(std::floor(yarn_dimension(rope, rope.beta_fast)), 0.0);
  const double high = std::min(std::ceil(yarn_dimension(rope, rope.beta_slow)), rope.dims - 1.0);
  const double ramp = std::clamp((i - low) / std::max(high - low, 0.001), 0.0, 1.0);
  return inv_freq / rope.factor * ramp + inv_freq * (1 - ramp);
}

}  // namespace

absl::Status check_spec(const std::string& file, const ModelSpec& spec) {
  const Bound bounds[] = {
      {"vocabulary size", spec.vocab_size, int64_t{1} << 22},
      {"hidden size", spec.hidden, 1 << 17},
      {"feed-forward size", spec.ffn, 1 << 20},
      {"number of layers", spec.layers, 1024},
      {"number of heads", spec.heads, 1024},
      {"number of KV heads", spec.kv_heads, 1024},
      {"head size", spec.head_dim, 1024},
      {"context length", spec.context_tokens, int64_t{1} << 24},
  };
  for (const Bound& bound : bounds)
    if (bound.value < 1 || bound.value > bound.limit)
      return refuse(file, cat(bound.what, " ", bound.value, ": want 1 to ", bound.limit));
  if (spec.head_dim % 2 != 0) return refuse(file, cat("head size ", spec.head_dim, ": want an even number"));
  if (spec.heads % spec.kv_heads != 0)
    return refuse(file,
                  cat("number of heads ", spec.heads, " is no multiple of the KV heads ", spec.kv_heads));
  if (!std::isfinite(spec.norm_eps) || spec.norm_eps <= 0 || spec.norm_eps > 1)
    return refuse(file, "norm epsilon: want a number in (0, 1]");
  if (spec.window < 0) return refuse(file, cat("sliding window ", spec.window, ": want a positive number"));
  return check_rope(file, spec);
}

std::string spec_text(const ModelSpec& spec) {
  const RopeSettings& rope = spec.rope;
  std::string text = cat("architecture ", spec.architecture, "\nvocab ", spec.vocab_size, "\nhidden ",
                         spec.hidden, "\nffn ", spec.ffn, "\nlayers ", spec.layers, "\nheads ", spec.heads,
                         "\nkv_heads ", spec.kv_heads, "\nhead_dim ", spec.head_dim, "\ncontext ",
                         spec.context_tokens, "\neps ", exact(spec.norm_eps), "\nwindow ", spec.window);
  text += cat("\ntied ", int{spec.tied_head}, "\nqk_norm ", int{spec.qk_norm}, "\nqkv_bias ",
              int{spec.qkv_bias}, "\no_bias ", int{spec.o_bias}, "\nmlp_bias ", int{spec.mlp_bias});
  text += cat("\nrope ", exact(rope.base), " ", rope.dims, " ", int{rope.interleaved}, " ",
              static_cast<int>(rope.scaling), " ", exact(rope.factor), " ", exact(rope.low_freq_factor), " ",
              exact(rope.high_freq_factor), " ", rope.original_context, " ", exact(rope.beta_fast), " ",
              exact(rope.beta_slow), " ", exact(rope.attention_factor));
  for (const double divisor : rope.divisors) text += cat(" ", exact(divisor));
  // Made with pow(), of which machines have several: where a bit differs, so do keys, and the two must not
  // meet.
  text += "\nfrequencies";
  for (const double frequency : rope_spec(spec, 0).inv_freq) text += cat(" ", exact(frequency));
  return text + "\n";
}

kernels::AttentionSpec attention_spec(const ModelSpec& spec) {
  kernels::AttentionSpec attention;
  attention.heads = spec.heads;
  attention.kv_heads = spec.kv_heads;
  attention.head_dim = spec.head_dim;
  attention.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(spec.head_dim)));
  attention.window = spec.window;
  return attention;
}

kernels::RopeSpec rope_spec(const ModelSpec& spec, int64_t max_positions) {
  const RopeSettings& rope = spec.rope;
  kernels::RopeSpec out;
  out.interleaved = rope.interleaved;
  out.max_positions = max_positions;
  out.inv_freq.reserve(rope.dims / 2);
  for (int i = 0; i < rope.dims / 2; ++i) {
    double inv_freq = std::pow(rope.base, -2.0 * i / rope.dims);
    if (rope.scaling == RopeScaling::kLinear) inv_freq /= rope.factor;
    if (rope.scaling == RopeScaling::kLlama3) inv_freq = llama3_scaled(rope, inv_freq);
    if (rope.scaling == RopeScaling::kYarn) inv_freq = yarn_scaled(rope, inv_freq, i);
    if (!rope.divisors.empty()) inv_freq /= rope.divisors[i];
    out.inv_freq.push_back(inv_freq);
  }
  if (rope.scaling == RopeScaling::kYarn) out.magnitude = rope.attention_factor;
  return out;
}

kernels::KvGeometry kv_geometry(const ModelSpec& spec, int block_tokens, kernels::KvType type,
                                int64_t blocks) {
  kernels::KvGeometry geometry;
  geometry.layers = spec.layers;
  geometry.kv_heads = spec.kv_heads;
  geometry.head_dim = spec.head_dim;
  geometry.block_tokens = block_tokens;
  geometry.type = type;
  geometry.blocks = blocks;
  return geometry;
}

}  // namespace baton::worker
