#include "kernels/self_check.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/cat.h"
#include "base/rng.h"
#include "kernels/device.h"
#include "kernels/float16.h"
#include "kernels/reference/reference_backend.h"

namespace baton::kernels {
namespace {

constexpr int kHidden = 256, kHeads = 4, kKvHeads = 2, kFfn = 320, kVocab = 320, kBlockTokens = 64;

// What is run between embedding and head; each has all of the stages before it.
enum Stage : uint8_t { kHead, kFeedForward, kAttention, kStages };
constexpr const char* kNames[kStages] = {"embedding, norm and linear", "gate and up, SiLU and down",
                                         "rotation, KV write and attention"};

struct Matrix {
  std::vector<uint16_t> values;
  WeightView view;
};
Matrix random_matrix(int rows, int cols, uint64_t seed, double spread) {
  Matrix m{std::vector<uint16_t>(size_t(rows) * cols), {}};
  Rng random(seed);
  for (uint16_t& v : m.values) v = float_to_bfloat16(float((random.next_double() * 2 - 1) * spread));
  m.view = {DType::kBF16, reinterpret_cast<const std::byte*>(m.values.data()), rows, cols};
  return m;
}

struct Weights {
  explicit Weights(int head_dim)
      : table(random_matrix(kVocab, kHidden, 1, 1.0)),
        q(random_matrix(kHeads * head_dim, kHidden, 2, 0.1)),
        k(random_matrix(kKvHeads * head_dim, kHidden, 3, 0.1)),
        v(random_matrix(kKvHeads * head_dim, kHidden, 4, 0.1)),
        o(random_matrix(kHidden, kHeads * head_dim, 5, 0.1)),
        gate(random_matrix(kFfn, kHidden, 6, 0.1)),
        up(random_matrix(kFfn, kHidden, 7, 0.1)),
        down(random_matrix(kHidden, kFfn, 8, 0.1)),
        head(random_matrix(kVocab, kHidden, 9, 0.1)) {}
  Matrix table, q, k, v, o, gate, up, down, head;
  std::vector<float> norm = std::vector<float>(kHidden, 1.0f);
};

// One backend with that layer. The step is one sequence's rows [first, end).
class Layer {
 public:
  Layer(Backend& backend, const Weights& weights, const SelfCheck& check)
      : backend_(backend), weights_(weights), check_(check) {
    for (int p = 0; p < check.rows; ++p) {
      tokens_.push_back(p * 7 % kVocab);
      positions_.push_back(p);
      logit_rows_.push_back(p);
    }
    for (int b = (check.rows - 1) / kBlockTokens; b >= 0; --b) blocks_.emplace_back(b);
  }

  absl::Status load(KvType kv) {
    const int dim = check_.head_dim;
    RopeSpec rope;
    for (int i = 0; i < dim / 2; ++i) rope.inv_freq.push_back(std::pow(1e4, -2.0 * i / dim));
    rope.max_positions = check_.rows;
    RETURN_IF_ERROR(
        backend_.set_attention({kHeads, kKvHeads, dim, 1 / std::sqrt(static_cast<float>(dim)), 0}, rope));
    ASSIGN_OR_RETURN(table_, backend_.make_embedding(weights_.table.view));
    ASSIGN_OR_RETURN(qkv_, make({weights_.q.view, weights_.k.view, weights_.v.view}));
    ASSIGN_OR_RETURN(o_, make({weights_.o.view}, 2));
    ASSIGN_OR_RETURN(gate_up_, make({weights_.gate.view, weights_.up.view}));
    ASSIGN_OR_RETURN(down_, make({weights_.down.view}, 2));
    ASSIGN_OR_RETURN(head_, make({weights_.head.view}));
    const KvGeometry geometry = {1, kKvHeads, dim, kBlockTokens, kv, static_cast<int64_t>(blocks_.size())};
    pool_.resize(backend_.in_host_memory() ? geometry.pool_bytes() : 64);
    RETURN_IF_ERROR(backend_.attach_kv(pool_, geometry));
    residual_ = backend_.allocate(size_t(check_.rows) * kHidden);
    qkv_rows_ = backend_.allocate(size_t(check_.rows) * (kHeads + 2 * kKvHeads) * dim);
    attended_ = backend_.allocate(size_t(check_.rows) * kHeads * dim);
    scratch_ = backend_.allocate(size_t(check_.rows) * kFfn);
    return absl::OkStatus();
  }

  // [end - first][kVocab]. With `decode` every row is a sequence of its own, as in a decode step: all of them
  // read the KV of the earlier rows, and store what lies there already.
  absl::StatusOr<std::vector<float>> logits(Stage stage, int first, int end, bool decode = false) {
    const auto count = static_cast<size_t>(end - first);
    std::vector<float> out(count * kVocab);
    std::vector<SequenceRows> rows;
    if (!decode) rows.push_back({0, end - first, first, blocks_});
    for (int p = first; decode && p < end; ++p) rows.push_back({p - first, 1, p, blocks_});
    backend_.begin_step({std::span(tokens_).subspan(first, count),
                         std::span(positions_).subspan(first, count), rows,
                         std::span(logit_rows_).first(count)});
    backend_.run_together([&] { run(stage, out.data()); });
    RETURN_IF_ERROR(backend_.finish_step());
    return out;
  }

 private:
  absl::StatusOr<std::unique_ptr<Linear>> make(std::vector<WeightView> parts, int k_shards = 1) {
    return backend_.make_linear({.parts = std::move(parts), .bias = {}, .k_shards = k_shards});
  }
  void run(Stage stage, float* out) {
    const NormWeights norm = {weights_.norm, 1e-5f};
    backend_.embed(*table_, residual_);
    if (stage >= kAttention) {
      backend_.norm_linear(norm, *qkv_, residual_, qkv_rows_);
      backend_.rope_attention({}, qkv_rows_, attended_, [] {});
      backend_.linear_add(*o_, attended_, residual_);
    }
    if (stage >= kFeedForward) backend_.feed_forward(norm, *gate_up_, *down_, residual_, scratch_);
    backend_.head(norm, *head_, residual_, {.values = out});
  }

  Backend& backend_;
  const Weights& weights_;
  const SelfCheck check_;
  std::vector<TokenId> tokens_;
  std::vector<int32_t> positions_, logit_rows_;
  std::vector<BlockId> blocks_;
  std::vector<std::byte> pool_;
  std::unique_ptr<Embedding> table_;
  std::unique_ptr<Linear> qkv_, o_, gate_up_, down_, head_;
  float *residual_ = nullptr, *qkv_rows_ = nullptr, *attended_ = nullptr, *scratch_ = nullptr;
};

absl::Status differs(const Backend& backend, Stage stage, int rows, std::string_view how) {
  return absl::InternalError(
      cat("self-check of ", backend.description(), ": ", kNames[stage], ", ", rows, " rows: ", how));
}

// bf16 keeps 8 bits and e4m3 4: a wrong formula is off by the spread of the logits.
absl::Status compare(const Backend& backend, const SelfCheck& check, Stage stage, std::span<const float> got,
                     std::span<const float> want) {
  float spread = 0;
  for (const float w : want) spread = std::max(spread, std::abs(w));
  const bool fp8 = backend.numerics_id(check.kv).find("fp8") != std::string::npos;
  const float most = (fp8 ? 0.3f : 0.06f) * spread;
  for (size_t i = 0; i < want.size(); ++i)
    if (!(std::abs(got[i] - want[i]) <= most))
      return differs(backend, stage, check.rows,
                     cat("logit ", i % kVocab, " of row ", i / kVocab, " is ", got[i], ", the reference has ",
                         want[i], " (the largest is ", spread, ")"));
  return absl::OkStatus();
}

// The last rows alone, by every kernel that a number of rows chooses.
absl::Status check_batches(const Backend& backend, const SelfCheck& check, Stage stage, Layer& layer,
                           std::span<const float> want) {
  for (const int count : {1, 8, 15, 30, 64, 100, 130, 520}) {
    if (count >= check.rows) break;
    ASSIGN_OR_RETURN(const std::vector<float> got, layer.logits(stage, check.rows - count, check.rows));
    if (std::memcmp(got.data(), want.last(got.size()).data(), got.size() * sizeof(float)) != 0)
      return differs(backend, stage, count, cat("a row has not the bits that it has among ", check.rows));
  }
  return absl::OkStatus();
}

// The last rows as decode steps, three times: a device may run the first one, record the second and replay
// the third.
absl::Status check_decode(const Backend& backend, const SelfCheck& check, Stage stage, Layer& layer,
                          std::span<const float> want) {
  for (const int count : {1, 5, 20})
    for (const std::string_view time : {"first", "second", "third"}) {
      if (count >= check.rows) break;
      ASSIGN_OR_RETURN(const std::vector<float> got,
                       layer.logits(stage, check.rows - count, check.rows, true));
      if (std::memcmp(got.data(), want.last(got.size()).data(), got.size() * sizeof(float)) != 0)
        return differs(backend, stage, count,
                       cat("a row has not the bits in the ", time,
                           " decode step of this size that it has among ", check.rows, " rows of a prompt"));
    }
  return absl::OkStatus();
}

absl::Status check_stages(Backend& backend, const SelfCheck& check) {
  const Weights weights(check.head_dim);
  reference::ReferenceBackend reference;
  for (const Stage stage : {kHead, kFeedForward, kAttention}) {
    // Weights anew: a backend that has recorded a step takes another stage for another model.
    Layer tested(backend, weights, check), truth(reference, weights, check);
    RETURN_IF_ERROR(tested.load(check.kv));
    RETURN_IF_ERROR(truth.load(KvType::kF32));
    ASSIGN_OR_RETURN(const std::vector<float> got, tested.logits(stage, 0, check.rows));
    ASSIGN_OR_RETURN(const std::vector<float> want, truth.logits(stage, 0, check.rows));
    RETURN_IF_ERROR(compare(backend, check, stage, got, want));
    if (!check.batches) continue;
    RETURN_IF_ERROR(check_batches(backend, check, stage, tested, got));
    RETURN_IF_ERROR(check_decode(backend, check, stage, tested, got));
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<LinearSpec> self_check_linears(int head_dim) {
  const auto view = [](int64_t rows, int64_t cols) {
    return WeightView{.type = DType::kBF16, .rows = rows, .cols = cols};
  };
  const int64_t q = int64_t{kHeads} * head_dim, kv = int64_t{kKvHeads} * head_dim;
  return {{.parts = {view(q, kHidden), view(kv, kHidden), view(kv, kHidden)}},
          {.parts = {view(kHidden, q)}, .k_shards = 2},
          {.parts = {view(kFfn, kHidden), view(kFfn, kHidden)}},
          {.parts = {view(kHidden, kFfn)}, .k_shards = 2},
          {.parts = {view(kVocab, kHidden)}}};
}

absl::Status check_against_reference(Backend& backend, const SelfCheck& check) {
  const absl::Status status = check_stages(backend, check);
  if (status.ok()) return status;
  const DeviceBackend* device = device_backend(&backend);
  const std::string advice = device == nullptr ? "" : device->advice();
  return absl::Status(status.code(),
                      cat(std::string(status.message()), "; this device must not serve so (",
                          advice.empty() ? "" : cat("try: ", advice, "; "), "device cpu works without)"));
}

}  // namespace baton::kernels
