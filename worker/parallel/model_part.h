#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace baton::worker {

// How many ranks one model is spread over: `tensor` ranks share each layer, `pipeline` stages follow each
// other. Rank r is stage r / tensor, place r % tensor in it: the ranks of a stage are neighbours.
// Example tensor 2, pipeline 2: ranks 0 1 compute the first layers, 2 3 the last ones; 0 sends to 2, 1 to 3.
struct ParallelShape {
  int tensor = 1;
  int pipeline = 1;
  // Of each stage, the first one first: named, or measured (stage_split.h). Empty: as equal as can be.
  std::vector<int32_t> stage_layers{};
  int ranks() const { return tensor * pipeline; }
  // The same ranks in the same places, whatever layers they have.
  bool same_ranks(const ParallelShape& other) const {
    return tensor == other.tensor && pipeline == other.pipeline;
  }
  bool operator==(const ParallelShape&) const = default;
};

struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

// What the split of a model depends on.
struct SplitModel {
  int32_t layers = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int64_t hidden = 0;
  int64_t ffn = 0;
  int64_t vocab = 0;
  // Elements of a block of the file's format, the largest of any layer: columns are cut between blocks.
  int o_block = 1;
  int down_block = 1;
};

// How a product whose inputs are spread over the ranks (o, down) is computed.
//   kInputs: each rank multiplies its own inputs: a partial sum over whole sub-trees of the canonical K
//   shards
//            (docs/adr/0005), and the ranks' sums are added by the rest of the tree. One all-reduce.
//   kOutputs: the inputs are gathered, each rank computes some of the outputs over the whole K, and these are
//            gathered too. Two all-gathers: for shapes whose K shards are no whole sub-trees a rank.
// Either gives the bits of one rank.
enum class SplitBy : uint8_t { kInputs, kOutputs };

// The part of the matrix [outputs][inputs] of such a product that a rank holds.
struct ProductPart {
  SplitBy by = SplitBy::kInputs;
  Range rows;
  Range columns;
  int k_shards = 1;  // of `columns`
  bool operator==(const ProductPart&) const = default;
};

// What one rank owns. Worked examples:
//   SmolLM2-135M (30 layers, 9 heads and 3 KV heads of 64, ffn 1536), tensor 3, rank 1: heads [3, 6), KV
//   heads
//     [1, 2), o: columns [192, 384) of 576, 1 of 3 K shards; gate, up: rows [512, 1024); down: columns
//     [512, 1024), 1 of 3 K shards; vocabulary [16384, 32768). Sums: (p0 + p1) + p2, as on one rank.
//   TinyLlama-1.1B (32 heads, 4 KV heads, ffn 5632, formats of 256), tensor 4, rank 3: heads [24, 32), KV
//   head
//     3, o: columns [1536, 2048), 1 of 4 shards; ffn [4224, 5632): 5.5 blocks, so down is split by outputs:
//     rows [1536, 2048), all 5632 columns, 4 shards. With tensor 2: columns [2816, 5632), 2 of 4 shards.
//   stories260K (8 heads, 4 KV heads of 8, ffn 172): both products are one K shard, so tensor 2 and 4 split o
//     and down by outputs.
//   4 KV heads over 8 ranks: ranks 2i and 2i + 1 both hold KV head i, and half of its query heads each; o is
//     split by outputs.
struct ModelPart {
  ParallelShape shape;
  int rank = 0;
  int stage = 0;
  int place = 0;  // among the ranks of the stage
  Range layers;
  Range heads;     // query heads
  Range kv_heads;  // held, and stored in the rank's pool
  Range ffn;       // rows of gate and of up
  ProductPart o, down;
  Range vocab;  // rows of the head; empty but on the last stage

  bool first_stage() const { return stage == 0; }
  bool last_stage() const { return stage + 1 == shape.pipeline; }
  bool operator==(const ModelPart&) const = default;
};

// The part of `rank`. kInvalidArgument for a shape that this model cannot be split into, naming those that
// it can. Pure arithmetic: every rank computes the same parts of all.
absl::StatusOr<ModelPart> part_of(const SplitModel& model, const ParallelShape& shape, int rank);

// What is wrong with the layers that the shape names for its stages, or nothing.
std::string stage_layers_refusal(const SplitModel& model, const ParallelShape& shape);

// Every `tensor` that part_of() takes for this model, ascending: 1 and some more.
std::vector<int> tensor_sizes(const SplitModel& model);

// Rows of the head that the rank at `place` of `tensor` computes: panels of 16 rows, as equal as can be.
Range vocab_part(int64_t vocab, int tensor, int place);

// As equal as can be, the first ones one more. Example 30 layers, 4 stages: 8 8 7 7.
std::vector<int32_t> even_layers(int32_t layers, int stages);
// "16 + 14"
std::string stages_text(const std::vector<int32_t>& stage_layers);

// Whether `ranks` equal runs of `shards` leaves are sub-trees of sum_tree: its upper part over the ranks is
// then the tree of `shards`. Example 3 of 6: (4, 2) and (2, 1) cut alike; 2 of 6: the tree cuts 4, 2.
bool whole_subtrees(int shards, int ranks);

}  // namespace baton::worker
