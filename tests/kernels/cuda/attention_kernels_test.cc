// Attention, emulated: the plain kernel has the contract's bits; the tiled one is close to it, and gives a
// row the same bits whatever it is computed with.
#include "tests/kernels/cuda/kernel_fixture.h"

#include <numeric>

#include "kernels/cpu/contract.h"
#include "kernels/cuda/hopper_attention.cuh"

namespace baton::kernels::cuda {
namespace {

struct Shape {
  int dim, kv_heads, share, block_tokens;
  int window = 0;
};

struct World {
  Shape shape;
  OwnedStep step;
  std::vector<uint16_t> pool;
  std::vector<float> qkv;
  std::vector<int> lengths;

  int heads() const { return shape.kv_heads * shape.share; }
  int rows() const { return static_cast<int>(step.positions.size()); }
  LayerKv kv() { return {pool.data(), shape.kv_heads, shape.dim, shape.block_tokens}; }
};

// Sequences on shuffled pages; what lies beyond a sequence's end is NaN.
World make_world(const Shape& shape, const std::vector<Rows>& sequences, Random& random) {
  World w{.shape = shape};
  std::vector<std::vector<int32_t>> tables;
  int32_t pages = 0;
  for (const Rows& s : sequences) {
    const int count = (s.first_position + s.count + shape.block_tokens - 1) / shape.block_tokens;
    tables.emplace_back(count);
    std::iota(tables.back().begin(), tables.back().end(), pages);
    pages += count;
  }
  std::vector<int32_t> order(pages);
  std::iota(order.begin(), order.end(), 0);
  random.shuffle(order);
  const size_t page = static_cast<size_t>(2) * shape.kv_heads * shape.block_tokens * shape.dim;
  w.pool.assign(page * pages, 0x7fc0);
  for (size_t s = 0; s < sequences.size(); ++s) {
    for (int32_t& p : tables[s]) p = order[p];
    w.step.add_sequence(sequences[s], tables[s]);
    const int length = sequences[s].first_position + sequences[s].count;
    w.lengths.push_back(length);
    for (int position = 0; position < length; ++position)
      for (int vector = 0; vector < 2 * shape.kv_heads; ++vector) {
        uint16_t* to =
            w.pool.data() + tables[s][position / shape.block_tokens] * page +
            (static_cast<size_t>(vector) * shape.block_tokens + position % shape.block_tokens) * shape.dim;
        const std::vector<float> values = random.floats(shape.dim, 1.5f);
        for (int d = 0; d < shape.dim; ++d) to[d] = float_to_bfloat16(values[d]);
      }
  }
  w.qkv = random.floats(static_cast<size_t>(w.rows()) * (w.heads() + 2 * shape.kv_heads) * shape.dim);
  return w;
}

AttentionArgs arguments(World& w, std::vector<uint16_t>& out, std::vector<float>& partials) {
  out.assign(static_cast<size_t>(w.rows()) * 2 * w.heads() * w.shape.dim, 0x7fc0);
  return {w.qkv.data(),  out.data(),     w.heads(),
          w.shape.share, w.shape.window, 1.0f / std::sqrt(static_cast<float>(w.shape.dim)),
          w.kv(),        partials.data()};
}

// [rows][heads][dim]
std::vector<float> opened(const World& w, const std::vector<uint16_t>& out) {
  std::vector<float> values;
  const int width = w.heads() * w.shape.dim;
  for (int row = 0; row < w.rows(); ++row)
    for (int i = 0; i < width; ++i)
      values.push_back(bfloat16_to_float(out[static_cast<size_t>(row) * 2 * width + i]));
  return values;
}

std::vector<float> contract_attention(World& w, bool rounded_queries) {
  std::vector<float> all;
  const int dim = w.shape.dim;
  for (int row = 0; row < w.rows(); ++row)
    for (int head = 0; head < w.heads(); ++head) {
      const int position = w.step.positions[row], sequence = w.step.row_sequence[row];
      std::vector<float> keys, values, out(dim);
      for (int p = 0; p <= position; ++p)
        for (int part = 0; part < 2; ++part) {
          const uint16_t* from = kv_vector(w.kv(), w.step.blocks.data() + w.step.block_starts[sequence], p,
                                           part, head / w.shape.share);
          for (int d = 0; d < dim; ++d) (part == 0 ? keys : values).push_back(bfloat16_to_float(from[d]));
        }
      const float* from =
          w.qkv.data() + (static_cast<size_t>(row) * (w.heads() + 2 * w.shape.kv_heads) + head) * dim;
      std::vector<float> q(from, from + dim);
      for (float& v : q)
        if (rounded_queries) v = bfloat16_to_float(float_to_bfloat16(v));
      const int first = w.shape.window > 0 ? std::max(0, position - w.shape.window + 1) : 0;
      contract::attend(q, {keys, values, first, position}, 1.0f / std::sqrt(static_cast<float>(dim)), out);
      all.insert(all.end(), out.begin(), out.end());
    }
  return all;
}

TEST(PlainAttention, HasTheContractsBits) {
  for (const Shape& shape : {Shape{8, 2, 1, 16}, Shape{48, 1, 3, 32, 300}, Shape{64, 2, 2, 64},
                             Shape{100, 1, 2, 16, 40}, Shape{256, 1, 1, 16}}) {
    Random random(21);
    SCOPED_TRACE(testing::Message() << "head_dim " << shape.dim << ", seed " << random.seed());
    World w = make_world(shape, {{0, 1}, {254, 4}, {random.between(500, 530), 1}, {0, 18}}, random);
    std::vector<uint16_t> out;
    std::vector<float> none;
    const AttentionArgs a = arguments(w, out, none);
    const StepTables tables = w.step.tables();
    emulated::launch({static_cast<unsigned>(w.rows()), static_cast<unsigned>(w.heads())}, kPlainThreads,
                     2 * sizeof(float) * shape.dim, [&] { plain_attention_kernel(tables, a); });
    const std::vector<float> want = contract_attention(w, false), got = opened(w, out);
    for (size_t i = 0; i < want.size(); ++i)
      ASSERT_EQ(got[i], bfloat16_to_float(float_to_bfloat16(want[i]))) << "value " << i;
  }
}

// Items for every sequence, as the work list makes them; `split` gives each chunk of narrow items a slot.
void add_items(World& w, bool wide, bool split) {
  int first_row = 0, slots = 0;
  for (size_t s = 0; s < w.lengths.size(); ++s) {
    const int rows = static_cast<int>(std::ranges::count(w.step.row_sequence, static_cast<int>(s)));
    const int packed = rows * w.shape.share, each = wide ? 64 : 16;
    for (int head = 0; head < w.shape.kv_heads; ++head)
      for (int begin = 0; begin < packed; begin += each) {
        AttentionItem item = {
            static_cast<int32_t>(s), first_row, begin, std::min(begin + each, packed), head, 0, 0, -1};
        const int position = w.step.positions[first_row + begin / w.shape.share];
        item.first_chunk = w.shape.window > 0 ? std::max(0, position - w.shape.window + 1) / kChunkKeys : 0;
        item.last_chunk = w.step.positions[first_row + (item.packed_end - 1) / w.shape.share] / kChunkKeys;
        if (!split) {
          (wide ? w.step.wide : w.step.narrow).push_back(item);
          continue;
        }
        w.step.merges.push_back(
            {first_row, begin, item.packed_end, head, slots, item.last_chunk - item.first_chunk + 1});
        for (int chunk = item.first_chunk, last = item.last_chunk; chunk <= last; ++chunk) {
          item.first_chunk = item.last_chunk = chunk;
          item.slot = slots++;
          w.step.narrow.push_back(item);
        }
      }
    first_row += rows;
  }
}

template <int kDim>
std::vector<float> tiled(World w, bool wide, bool split) {
  add_items(w, wide, split);
  std::vector<uint16_t> out;
  std::vector<float> partials(w.step.narrow.size() * 16 * (kDim + 2), NAN);
  const AttentionArgs a = arguments(w, out, partials);
  const StepTables tables = w.step.tables();
  const unsigned blocks = 3;  // fewer than items: each block takes several
  if (wide)
    emulated::launch({blocks}, 128, AttentionShared<kDim, 4>::kBytes,
                     [&] { tile_attention_kernel<kDim, 4>(tables, a); });
  else
    emulated::launch({blocks}, 32, AttentionShared<kDim, 1>::kBytes,
                     [&] { tile_attention_kernel<kDim, 1>(tables, a); });
  if (split) emulated::launch({blocks}, kPlainThreads, 0, [&] { merge_kernel<kDim>(tables, a); });
  return opened(w, out);
}

template <int kDim>
std::vector<float> hopper(World w, bool wide, bool split) {
  add_items(w, wide, split);
  std::vector<uint16_t> out;
  std::vector<float> partials(w.step.narrow.size() * 16 * (kDim + 2), NAN);
  const AttentionArgs a = arguments(w, out, partials);
  const StepTables tables = w.step.tables();
  const auto pool = make_tensor_map({w.pool.data(), static_cast<int64_t>(w.pool.size()) / kDim, kDim, kDim,
                                     std::min(w.shape.block_tokens, kTileKeys)});
  emulated::launch({3}, HopperAttention<kDim>::kThreads, HopperAttention<kDim>::kBytes,
                   [&] { hopper_attention_kernel<kDim>(*pool, tables, a, !wide); });
  if (split) emulated::launch({3}, kPlainThreads, 0, [&] { merge_kernel<kDim>(tables, a); });
  return opened(w, out);
}

template <int kDim>
void check_tiles(const Shape& shape, const std::vector<Rows>& sequences) {
  Random random(22);
  SCOPED_TRACE(testing::Message() << "head_dim " << kDim << ", share " << shape.share << ", seed "
                                  << random.seed());
  World w = make_world(shape, sequences, random);
  const std::vector<float> want = contract_attention(w, true);
  const std::vector<float> wide = tiled<kDim>(w, true, false);
  ASSERT_EQ(want.size(), wide.size());
  for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(wide[i], want[i], 0.02) << "value " << i;
  for (const bool split : {false, true}) {
    const std::vector<float> narrow = tiled<kDim>(w, false, split);
    EXPECT_EQ(std::memcmp(wide.data(), narrow.data(), wide.size() * sizeof(float)), 0)
        << "items of 16 rows" << (split ? ", a block each chunk" : "");
  }
  const std::vector<float> wide_hopper = hopper<kDim>(w, true, false);
  for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(wide_hopper[i], want[i], 0.02) << "value " << i;
  for (const bool split : {false, true}) {
    const std::vector<float> narrow = hopper<kDim>(w, false, split);
    EXPECT_EQ(std::memcmp(wide_hopper.data(), narrow.data(), narrow.size() * sizeof(float)), 0)
        << "wgmma, items of 16 rows" << (split ? ", a block each chunk" : "");
  }
}

TEST(TileAttention, IsCloseToTheContractAndIndependentOfTheTiling) {
  check_tiles<64>({64, 2, 1, 16}, {{0, 1}, {255, 3}, {63, 2}, {600, 1}});
  check_tiles<64>({64, 1, 3, 64}, {{250, 30}, {0, 25}});
  check_tiles<128>({128, 1, 4, 64}, {{300, 1}, {0, 17}, {511, 2}});
  check_tiles<64>({64, 1, 20, 32}, {{100, 2}});  // more query heads than a narrow item holds
}

TEST(TileAttention, WindowsHideWholeTilesAndChunks) {
  check_tiles<64>({64, 1, 2, 64, 70}, {{520, 40}, {0, 5}, {700, 1}});
  check_tiles<64>({64, 2, 1, 16, 1}, {{256, 4}});
}

TEST(TileAttention, LongContexts) { check_tiles<64>({64, 1, 1, 64}, {{5000, 1}, {4095, 2}}); }

TEST(TileAttention, AnEmptyListWritesNothing) {
  Random random(23);
  World w = make_world({64, 1, 1, 64}, {{5, 1}}, random);
  std::vector<uint16_t> out;
  std::vector<float> none;
  const AttentionArgs a = arguments(w, out, none);
  const StepTables tables = w.step.tables();
  emulated::launch({2}, 32, AttentionShared<64, 1>::kBytes, [&] { tile_attention_kernel<64, 1>(tables, a); });
  for (const uint16_t v : out) ASSERT_EQ(v, 0x7fc0);
}

}  // namespace
}  // namespace baton::kernels::cuda
