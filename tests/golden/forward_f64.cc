#include "tests/golden/forward_f64.h"

#include <algorithm>
#include <cmath>

#include "base/cat.h"

namespace baton::testing {
namespace {

using Row = std::vector<double>;

constexpr double kPi = 3.14159265358979323846;

Row rms_norm(const Row& x, const std::vector<float>& weight, double eps, size_t offset = 0,
             size_t count = 0) {
  if (count == 0) count = x.size();
  double sum = 0;
  for (size_t i = 0; i < count; ++i) sum += x[offset + i] * x[offset + i];
  const double scale = 1.0 / std::sqrt(sum / count + eps);
  Row out(count);
  for (size_t i = 0; i < count; ++i) out[i] = x[offset + i] * scale * weight[i];
  return out;
}

Row multiply(const std::vector<float>& w, const Row& x) {
  Row y(w.size() / x.size());
  for (size_t r = 0; r < y.size(); ++r)
    for (size_t c = 0; c < x.size(); ++c) y[r] += double{w[r * x.size() + c]} * x[c];
  return y;
}

struct Pass {
  const RandomModel& model;
  const std::vector<double>& inv_freq;
  double magnitude;

  const RandomModelOptions& o() const { return model.options(); }

  Row project(const std::string& name, const Row& x) const {
    Row y = multiply(model.values(name + ".weight"), x);
    if (model.has(name + ".bias"))
      for (size_t i = 0; i < y.size(); ++i) y[i] += model.values(name + ".bias")[i];
    return y;
  }

  void norm_heads(Row& x, const std::string& name) const {
    if (!model.has(name)) return;
    for (size_t h = 0; h < x.size(); h += o().head_dim) {
      const Row normed = rms_norm(x, model.values(name), o().norm_eps, h, o().head_dim);
      std::copy(normed.begin(), normed.end(), x.begin() + static_cast<ptrdiff_t>(h));
    }
  }

  void rotate(Row& x, size_t position) const {
    const bool adjacent = o().architecture == "llama";
    const size_t half = inv_freq.size();
    for (size_t h = 0; h < x.size(); h += o().head_dim) {
      for (size_t i = 0; i < half; ++i) {
        double& a = x[h + (adjacent ? 2 * i : i)];
        double& b = x[h + (adjacent ? 2 * i + 1 : i + half)];
        const double c = std::cos(position * inv_freq[i]) * magnitude;
        const double s = std::sin(position * inv_freq[i]) * magnitude;
        const double rotated = a * c - b * s;
        b = a * s + b * c;
        a = rotated;
      }
    }
  }

  // Attention of the last position over all keys.
  Row attend(const Row& q, const std::vector<Row>& keys, const std::vector<Row>& values) const {
    const size_t d = o().head_dim;
    const size_t last = keys.size() - 1;
    const size_t first = o().window > 0 && last + 1 > size_t(o().window) ? last + 1 - o().window : 0;
    Row out(q.size());
    for (int32_t h = 0; h < o().heads; ++h) {
      const size_t kv = size_t(h) / (o().heads / o().kv_heads) * d;
      Row score;
      for (size_t t = first; t <= last; ++t) {
        double dot = 0;
        for (size_t i = 0; i < d; ++i) dot += q[h * d + i] * keys[t][kv + i];
        score.push_back(dot / std::sqrt(static_cast<double>(d)));
      }
      const double max = *std::max_element(score.begin(), score.end());
      double sum = 0;
      for (double& s : score) sum += s = std::exp(s - max);
      for (size_t t = first; t <= last; ++t)
        for (size_t i = 0; i < d; ++i) out[h * d + i] += score[t - first] / sum * values[t][kv + i];
    }
    return out;
  }

  void block(int layer, std::vector<Row>& x) const {
    const std::string p = cat("blk.", layer, ".");
    std::vector<Row> keys, values;
    for (size_t t = 0; t < x.size(); ++t) {
      const Row n = rms_norm(x[t], model.values(p + "attn_norm.weight"), o().norm_eps);
      Row q = project(p + "attn_q", n);
      Row k = project(p + "attn_k", n);
      norm_heads(q, p + "attn_q_norm.weight");
      norm_heads(k, p + "attn_k_norm.weight");
      rotate(q, t);
      rotate(k, t);
      keys.push_back(k);
      values.push_back(project(p + "attn_v", n));
      const Row a = project(p + "attn_output", attend(q, keys, values));
      for (size_t i = 0; i < a.size(); ++i) x[t][i] += a[i];
      const Row m = rms_norm(x[t], model.values(p + "ffn_norm.weight"), o().norm_eps);
      Row gate = project(p + "ffn_gate", m);
      const Row up = project(p + "ffn_up", m);
      for (size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
      const Row f = project(p + "ffn_down", gate);
      for (size_t i = 0; i < f.size(); ++i) x[t][i] += f[i];
    }
  }
};

}  // namespace

std::vector<double> plain_frequencies(double base, int dims) {
  std::vector<double> out;
  for (int i = 0; i < dims; i += 2) out.push_back(1.0 / std::pow(base, static_cast<double>(i) / dims));
  return out;
}

std::vector<double> llama3_frequencies(double base, int dims, double factor, double low, double high,
                                       double original) {
  std::vector<double> out = plain_frequencies(base, dims);
  for (double& f : out) {
    const double turns = original * f / (2 * kPi);  // over the original context
    const double blend = std::clamp((turns - low) / (high - low), 0.0, 1.0);
    f = f * (blend + (1 - blend) / factor);
  }
  return out;
}

std::vector<double> yarn_frequencies(double base, int dims, double factor, double fast, double slow,
                                     double original) {
  std::vector<double> out = plain_frequencies(base, dims);
  const auto dimension = [&](double turns) {
    return dims * std::log(original / (turns * 2 * kPi)) / (2 * std::log(base));
  };
  const double low = std::max(0.0, std::floor(dimension(fast)));
  const double high = std::min(dims - 1.0, std::ceil(dimension(slow)));
  for (size_t i = 0; i < out.size(); ++i) {
    const double interpolated = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    out[i] = out[i] * (1 - interpolated) + out[i] / factor * interpolated;
  }
  return out;
}

std::vector<std::vector<double>> forward_f64(const RandomModel& model, std::span<const TokenId> tokens,
                                             const std::vector<double>& inv_freq, double magnitude) {
  const Pass pass{model, inv_freq, magnitude};
  const auto& o = model.options();
  const auto& table = model.values("token_embd.weight");
  std::vector<Row> x;
  for (const TokenId token : tokens)
    x.emplace_back(table.begin() + token * o.hidden, table.begin() + (token + 1) * o.hidden);
  for (int layer = 0; layer < o.layers; ++layer) pass.block(layer, x);
  for (Row& row : x) {
    const Row normed = rms_norm(row, model.values("output_norm.weight"), o.norm_eps);
    row = multiply(o.tied ? table : model.values("output.weight"), normed);
  }
  return x;
}

}  // namespace baton::testing
