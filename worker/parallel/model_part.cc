#include "worker/parallel/model_part.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "base/cat.h"
#include "base/check.h"
#include "kernels/backend.h"

namespace baton::worker {
namespace {

constexpr int64_t kPanelRows = 16;
constexpr int kMaxTensor = 1024;

Range equal_part(int64_t count, int parts, int index) {
  return {count * index / parts, count * (index + 1) / parts};
}

struct Product {
  int64_t outputs;
  int64_t inputs;
  int block;  // elements that stand or fall together in a row
};

// How many K shards each rank sums; 0 when they are no whole sub-trees, or cut a block of the file.
int shards_a_rank(const SplitModel& model, const Product& product, int tensor) {
  const int shards = kernels::k_shards_for(model.kv_heads, product.inputs);
  const bool split = whole_subtrees(shards, tensor) && product.inputs / tensor % product.block == 0;
  return split ? shards / tensor : 0;
}

ProductPart product_part(const SplitModel& model, const Product& product, int tensor, int place) {
  const int own = shards_a_rank(model, product, tensor);
  if (own > 0)
    return {SplitBy::kInputs, {0, product.outputs}, equal_part(product.inputs, tensor, place), own};
  return {SplitBy::kOutputs,
          equal_part(product.outputs, tensor, place),
          {0, product.inputs},
          kernels::k_shards_for(model.kv_heads, product.inputs)};
}

Product o_product(const SplitModel& m) { return {m.hidden, int64_t{m.heads} * m.head_dim, m.o_block}; }
Product down_product(const SplitModel& m) { return {m.hidden, m.ffn, m.down_block}; }

// Why not, or nothing.
std::string tensor_refusal(const SplitModel& model, int tensor) {
  const auto uneven = [&](std::string_view what, int64_t count) {
    return cat("its ", count, " ", what, " do not divide among ", tensor, " ranks");
  };
  if (tensor < 1 || tensor > kMaxTensor) return cat("want 1 to ", kMaxTensor);
  if (model.heads % tensor != 0) return uneven("heads", model.heads);
  if (model.kv_heads % tensor != 0 && tensor % model.kv_heads != 0) return uneven("KV heads", model.kv_heads);
  if (model.ffn % tensor != 0) return uneven("feed-forward columns", model.ffn);
  if (model.vocab < tensor * kPanelRows) return uneven("tokens", model.vocab);
  const bool gathers = shards_a_rank(model, o_product(model), tensor) == 0 ||
                       shards_a_rank(model, down_product(model), tensor) == 0;
  if (gathers && model.hidden % tensor != 0) return uneven("hidden columns", model.hidden);
  return "";
}

absl::Status check_shape(const SplitModel& model, const ParallelShape& shape) {
  if (const std::string why = tensor_refusal(model, shape.tensor); !why.empty()) {
    std::vector<std::string> sizes;
    for (const int size : tensor_sizes(model)) sizes.push_back(std::to_string(size));
    return absl::InvalidArgumentError(
        cat("parallel.tensor ", shape.tensor, ": ", why, "; this model takes tensor ", join(sizes, ", ")));
  }
  if (shape.pipeline < 1 || shape.pipeline > model.layers)
    return absl::InvalidArgumentError(
        cat("parallel.pipeline ", shape.pipeline, ": want 1 to the model's ", model.layers, " layers"));
  const std::string why = stage_layers_refusal(model, shape);
  return why.empty() ? absl::OkStatus() : absl::InvalidArgumentError(cat("parallel.stageLayers: ", why));
}

Range layers_of_stage(const SplitModel& model, const ParallelShape& shape, int stage) {
  Range layers;
  const std::vector<int32_t> counts =
      shape.stage_layers.empty() ? even_layers(model.layers, shape.pipeline) : shape.stage_layers;
  for (int s = 0; s <= stage; ++s) layers = {layers.end, layers.end + counts[s]};
  return layers;
}

}  // namespace

bool whole_subtrees(int shards, int ranks) {
  if (shards % ranks != 0) return false;
  if (ranks == 1) return true;
  const auto left_of = [](int n) { return static_cast<int>(std::bit_floor(static_cast<unsigned>(n - 1))); };
  const int left = left_of(shards), left_ranks = left_of(ranks);
  return left == left_ranks * (shards / ranks) && whole_subtrees(left, left_ranks) &&
         whole_subtrees(shards - left, ranks - left_ranks);
}

Range vocab_part(int64_t vocab, int tensor, int place) {
  const Range panels = equal_part((vocab + kPanelRows - 1) / kPanelRows, tensor, place);
  return {std::min(vocab, panels.begin * kPanelRows), std::min(vocab, panels.end * kPanelRows)};
}

std::vector<int32_t> even_layers(int32_t layers, int stages) {
  BATON_CHECK(stages >= 1 && stages <= layers);
  std::vector<int32_t> out(stages, layers / stages);
  for (int32_t i = 0; i < layers % stages; ++i) ++out[i];
  return out;
}

std::string stages_text(const std::vector<int32_t>& stage_layers) {
  std::vector<std::string> numbers;
  for (const int32_t layers : stage_layers) numbers.push_back(std::to_string(layers));
  return join(numbers, " + ");
}

std::string stage_layers_refusal(const SplitModel& model, const ParallelShape& shape) {
  const std::vector<int32_t>& named = shape.stage_layers;
  const bool positive = std::ranges::all_of(named, [](int32_t n) { return n >= 1; });
  const int64_t sum = std::accumulate(named.begin(), named.end(), int64_t{0});
  const bool fits = positive && sum == model.layers && std::ssize(named) == shape.pipeline;
  if (named.empty() || fits) return "";
  return cat("want ", shape.pipeline, shape.pipeline == 1 ? " number" : " numbers",
             " from 1 on, together the model's ", model.layers, " layers; got ", stages_text(named), " = ",
             sum);
}

std::vector<int> tensor_sizes(const SplitModel& model) {
  std::vector<int> sizes;
  for (int tensor = 1; tensor <= model.heads; ++tensor)
    if (tensor_refusal(model, tensor).empty()) sizes.push_back(tensor);
  return sizes;
}

absl::StatusOr<ModelPart> part_of(const SplitModel& model, const ParallelShape& shape, int rank) {
  RETURN_IF_ERROR(check_shape(model, shape));
  if (rank < 0 || rank >= shape.ranks())
    return absl::InvalidArgumentError(cat("rank ", rank, ": want 0 to ", shape.ranks() - 1));
  const int tensor = shape.tensor, place = rank % tensor;
  ModelPart part{.shape = shape, .rank = rank, .stage = rank / tensor, .place = place};
  part.layers = layers_of_stage(model, shape, part.stage);
  part.heads = equal_part(model.heads, tensor, place);
  // More ranks than KV heads: neighbours hold the same one.
  const int sharing = std::max(1, tensor / model.kv_heads);
  part.kv_heads = equal_part(model.kv_heads, tensor / sharing, place / sharing);
  part.ffn = equal_part(model.ffn, tensor, place);
  part.o = product_part(model, o_product(model), tensor, place);
  part.down = product_part(model, down_product(model), tensor, place);
  if (part.last_stage()) part.vocab = vocab_part(model.vocab, tensor, place);
  return part;
}

}  // namespace baton::worker
