#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/gguf_file.h"
#include "base/status.h"
#include "kernels/backend.h"

namespace baton::worker {

enum class RopeScaling : uint8_t { kNone, kLinear, kLlama3, kYarn };

// How positions become angles. inv_freq[i] = base^(-2i/dims), then scaled:
//   linear: divided by factor
//   llama3: wavelengths above original/low_freq_factor divided by factor, below original/high_freq_factor
//   kept,
//           blended between (transformers modeling_rope_utils, _compute_llama3_parameters)
//   yarn:   divided by factor below the correction range of (beta_fast, beta_slow), blended inside it;
//           cos and sin times attention_factor (Peng et al. 2023)
// and at last divided by divisors[i] when there are any (the GGUF tensor rope_freqs).
struct RopeSettings {
  double base = 10000.0;
  int32_t dims = 0;  // rotated dimensions of a head, even
  bool interleaved = false;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  int64_t original_context = 0;
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  double attention_factor = 1.0;
  std::vector<double> divisors;  // [dims/2] or empty
};

// What tells one model of the Llama family from another: Llama 2/3, Mistral, Qwen2, Qwen3, SmolLM are values
// of this struct, not classes. Read from GGUF metadata or config.json and checked there: every number
// positive and bounded, heads a multiple of kv_heads. A plain value. Thread: any. Example SmolLM2-135M:
// hidden 576, ffn 1536, layers 30, heads 9, kv_heads 3, head_dim 64, vocab 49152, tied.
struct ModelSpec {
  std::string architecture;  // "llama", "qwen2", "qwen3", "mistral"
  int64_t vocab_size = 0;
  int64_t hidden = 0;
  int64_t ffn = 0;
  int32_t layers = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;  // not always hidden / heads (Qwen3)
  int64_t context_tokens = 0;
  double norm_eps = 1e-5;
  int32_t window = 0;      // sliding window of every layer, 0 = none
  bool tied_head = false;  // the head is the embedding table
  bool qk_norm = false;    // q and k RMS-normalised per head before the rotation (Qwen3)
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  RopeSettings rope;

  int64_t q_width() const { return int64_t{heads} * head_dim; }
  int64_t kv_width() const { return int64_t{kv_heads} * head_dim; }
  int64_t qkv_width() const { return q_width() + 2 * kv_width(); }
};

// Errors: "file: key: what" (kInvalidArgument; kUnimplemented for a model this program does not know how to
// run).
absl::StatusOr<ModelSpec> spec_from_gguf(const GgufFile& file);
absl::StatusOr<ModelSpec> spec_from_config(const std::string& file, std::string_view json);

// Bounds and divisibility; both readers end with it.
absl::Status check_spec(const std::string& file, const ModelSpec& spec);

// One line per field, exact (floating point in hexadecimal): hashed into the model hash.
std::string spec_text(const ModelSpec& spec);

kernels::AttentionSpec attention_spec(const ModelSpec& spec);
// Frequencies in double; angles up to `max_positions` may be asked for.
kernels::RopeSpec rope_spec(const ModelSpec& spec, int64_t max_positions);
kernels::KvGeometry kv_geometry(const ModelSpec& spec, int block_tokens, kernels::KvType type,
                                int64_t blocks);

}  // namespace baton::worker
