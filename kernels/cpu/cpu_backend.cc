#include "kernels/cpu/cpu_backend.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kernels/backend_checks.h"
#include "kernels/cpu/cpu_embedding.h"
#include "kernels/cpu/instruction_set.h"
#include "kernels/cpu/product_rate.h"
#include "kernels/logit_rows.h"

namespace baton::kernels::cpu {
namespace {

constexpr int64_t kPrivateRows = 11;  // beyond it a barrier is cheaper: measured on two threads
static_assert(kPrivateRows < kLeastTiledRows);
constexpr int64_t kGateUpFloats = 64 * 1024;  // a thread's gate and up outputs before they are multiplied
constexpr int64_t kHotLogits = 64 * 1024;     // floats
constexpr int64_t kSerialRows = 2;            // fewer rows of embedding are not worth waking anyone

// One thread's: two panel pairs of every row at least.
constexpr int64_t gate_up_floats(int64_t rows) { return std::max(kGateUpFloats, 4 * kPanelRows * rows); }
constexpr int64_t kOrderedRows = 3;  // from here on weights are asked for across matrices
constexpr int kPiecesOfLinear = 16;  // parts, and blocks of gate_up and head: seldom more
constexpr int kLinesPerRow = 16;     // of weights, with each row that is prepared or activated
constexpr int kMaxThreads = 1024;

// Rows that another core has written: all their lines at once.
void fetch(const void* from, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(static_cast<const std::byte*>(from) + at);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CpuBackend::create(const BackendOptions& options) {
  if (options.threads < 1 || options.threads > kMaxThreads)
    return absl::InvalidArgumentError(absl::StrCat("threads ", options.threads, ": want 1..", kMaxThreads));
  ASSIGN_OR_RETURN(const Kernels* kernels, choose_kernels(options.isa_limit));
  return std::make_unique<CpuBackend>(*kernels, options);
}

CpuBackend::CpuBackend(const Kernels& kernels, const BackendOptions& options)
    : kernels_(kernels),
      brain_dots_(options.numerics == Numerics::kBrainDots),
      product_rate_(cpu::product_rate(kernels)),
      pool_(options.threads, options.cpus),
      rope_(kernels),
      paged_attention_(kernels, pool_, brain_dots_),
      private_rows_(options.threads),
      ahead_(options.threads),
      opened_(options.threads) {}

std::string CpuBackend::description() const {
  return absl::StrCat("cpu ", kernels_.name, ", ", pool_.size(), pool_.size() == 1 ? " thread" : " threads");
}

std::string CpuBackend::numerics_id(KvType kv) const {
  constexpr const char* kNames[] = {"f32", "bf16", "f16", "int8"};
  return absl::StrCat("cpu-int8g32-v2", brain_dots_ ? "+bf16dot" : "", "/kv-", kNames[static_cast<int>(kv)]);
}

absl::StatusOr<std::unique_ptr<Linear>> CpuBackend::make_linear(const LinearSpec& spec) {
  RETURN_IF_ERROR(check_linear(spec));
  for (const WeightView& part : spec.parts)
    if (part.type == DType::kF8E4M3) return absl::InvalidArgumentError("device cpu: want fp8 opened to bf16");
  auto linear = std::make_unique<CpuLinear>(spec, pool_, weights_, brain_dots_);
  max_cols_ = std::max(max_cols_, linear->cols());
  linear_cost_ += linear->row_cost();
  linear_bytes_ += static_cast<double>(linear->bytes());
  for (ReadsNext& next : ahead_) next.weights.make_room(kPiecesOfLinear);
  return linear;
}

size_t CpuBackend::packed_bytes(const LinearSpec& spec) const {
  size_t sum = 0;
  for (const WeightView& part : spec.parts) sum += cpu::packed_bytes(part, spec.k_shards);
  return sum;
}

absl::StatusOr<std::unique_ptr<Embedding>> CpuBackend::make_embedding(const WeightView& table) {
  return TableEmbedding::create(table);
}

absl::Status CpuBackend::set_attention(const AttentionSpec& attention, const RopeSpec& rope) {
  RETURN_IF_ERROR(check_attention(attention, rope));
  if (attention.heads / attention.kv_heads > kMaxAttendPairs)
    return absl::InvalidArgumentError(
        absl::StrCat("more than ", kMaxAttendPairs, " query heads per KV head"));
  attention_ = attention;
  rope_.set(attention, rope);
  paged_attention_.set_attention(attention);
  return absl::OkStatus();
}

absl::Status CpuBackend::attach_kv(std::span<std::byte> pool, const KvGeometry& geometry) {
  RETURN_IF_ERROR(check_kv(pool, geometry, attention_));
  if (geometry.block_tokens % 16 != 0)
    return absl::InvalidArgumentError(
        absl::StrCat("block_tokens ", geometry.block_tokens, ": want a multiple of 16"));
  if (geometry.type == KvType::kBF16 && geometry.head_dim % 2 != 0)
    return absl::InvalidArgumentError("a bf16 KV pool wants an even head_dim: take f32 or f16");
  if (reinterpret_cast<uintptr_t>(pool.data()) % alignof(float) != 0)
    return absl::InvalidArgumentError("KV pool is not aligned");
  kv_ = KvPool(pool, geometry);
  return absl::OkStatus();
}

float* CpuBackend::allocate(size_t floats) {
  return memory_.emplace_back(std::max<size_t>(floats, 1) * sizeof(float)).as<float>();
}

void CpuBackend::RowBuffer::grow(int64_t rows, int64_t cols) {
  values.grow(rows * cols * sizeof(float));
  brain.grow(rows * brain_stride(cols) * sizeof(uint16_t));
  grow_codes(rows, cols);
}

void CpuBackend::RowBuffer::grow_codes(int64_t rows, int64_t cols) {
  codes.grow(rows * cols);
  groups.grow(rows * (cols / contract::kGroup) * sizeof(ActivationGroup));
}

CpuBackend::PreparedRows CpuBackend::RowBuffer::from(int64_t row, int64_t cols) const {
  return {.values = values.as<float>() + row * cols,
          .codes = codes.as<int8_t>() + row * cols,
          .groups = groups.as<ActivationGroup>() + row * (cols / contract::kGroup),
          .brain = brain.as<uint16_t>() + row * brain_stride(cols),
          .tiles = {}};
}

void CpuBackend::begin_step(const StepBatch& batch) {
  check_batch(batch, kv_.geometry());
  pool_.pin_caller();
  batch_ = batch;
  const int64_t rows = batch.rows();
  shared_rows_.grow(rows, max_cols_);
  for (RowBuffer& buffer : private_rows_) buffer.grow(std::min(rows, kPrivateRows), max_cols_);
  hidden_rows_.grow_codes(rows, max_cols_);
  gate_up_scratch_.grow(gate_up_floats(rows) * pool_.size() * sizeof(float));
  if (kernels_.linear_tiled != nullptr) grow_tiles(rows);
  rope_.begin_step(batch);
  plan_shares();
  paged_attention_.plan(batch, kv_, shares_);
  keeps_to_itself_ = shares_.by_rows() && shares_.whole_sequences() && !batch.awaits_layers;
  // Threads with rows of their own compute longer than memory takes; one or two rows read a plain stream.
  orders_weights_ = !shares_.by_rows() && rows >= kOrderedRows;
  for (int thread = 0; thread < pool_.size(); ++thread) {
    ahead_[thread].kv = paged_attention_.lines_ahead(thread, 0);
    ahead_[thread].weights.begin_step();
  }
}

// Every thread's rows begin with a tile of their own.
void CpuBackend::grow_tiles(int64_t rows) {
  const auto bytes = row_tiles_bytes(rows + pool_.size() * kTileRows, max_cols_);
  shared_rows_.tiles.grow(bytes);
  hidden_rows_.tiles.grow(bytes);
  for (AlignedBuffer& opened : opened_) opened.grow(kPanelRows * max_cols_);
}

RowTiles CpuBackend::tiles_of_rows(const RowBuffer& buffer, int thread, Share rows, int64_t cols) const {
  const int64_t count = rows.end - rows.begin;
  if (kernels_.linear_tiled == nullptr || count < kLeastTiledRows) return {};
  const int64_t before = (rows.begin + thread * kTileRows) * (max_cols_ / kTiledGroup) * 64;
  return row_tiles(buffer.tiles.data() + before, count, cols);
}

void CpuBackend::plan_shares() {
  // Of a product, beside an integer one in a matrix (measured on Zen 5; with tiles on Granite Rapids).
  const bool dots = brain_dots_ && kernels_.attend_brain == kAvx512BrainKernels.attend_brain;
  // The third cache of Intel's servers is far away: rows win from 45 or 55 on (Granite Rapids).
  const double pass_ns = __builtin_cpu_is("intel") != 0 ? 0.08 : RowShares::Costs().pass_ns;
  const double attention_cost = (dots ? 1.5 : 3) * (kernels_.linear_tiled != nullptr ? 4.0 / 3 : 1);
  const int layers = std::max(1, kv_.geometry().layers);
  shares_.plan(batch_,
               {.linear = linear_cost_ / layers,
                .weight_bytes = linear_bytes_ / layers,
                .attention = attention_cost * 2 * attention_.heads * attention_.head_dim,
                .window = attention_.window,
                .product_rate = product_rate_,
                .pass_ns = pass_ns},
               pool_.size());
}

// For what is done row by row.
Share CpuBackend::rows_of(int thread) const {
  return shares_.by_rows() ? shares_.of(thread) : share_of(batch_.rows(), thread, pool_.size());
}

void CpuBackend::embed(const Embedding& table, float* out) {
  const auto& embedding = static_cast<const TableEmbedding&>(table);
  const auto copy = [&](Share share) {
    for (int64_t r = share.begin; r < share.end; ++r)
      embedding.look_up(batch_.tokens[r],
                        {out + r * embedding.cols(), static_cast<size_t>(embedding.cols())});
  };
  if (batch_.rows() < kSerialRows) return pool_.alone([&] { copy({0, batch_.rows()}); });
  pool_.run([&](int thread) { copy(rows_of(thread)); });
}

Activations CpuBackend::activations(const PreparedRows& prepared, const RowSource& source,
                                    const CpuLinear& linear, Share rows, int thread) const {
  Activations x = {.rows = rows.end - rows.begin, .cols = linear.cols()};
  const bool copied = source.norm != nullptr || source.index != nullptr;
  x.values = copied ? prepared.values : source.x + rows.begin * linear.cols();
  if (linear.needs_codes()) {
    x.codes = prepared.codes;
    x.groups = prepared.groups;
    x.tiles = prepared.tiles;
    x.opened = opened_[thread].data();
  }
  if (linear.needs_brain()) x.brain = prepared.brain;
  return x;
}

void CpuBackend::prepare(const RowSource& source, const CpuLinear& linear, Share share, PreparedRows to,
                         WeightOrder* order) const {
  const int64_t cols = linear.cols();
  const auto row = [&](int64_t r) {
    return source.x + (source.index != nullptr ? source.index[r] : r) * cols;
  };
  for (int64_t r = share.begin; r < share.end; ++r) {
    const float* x = row(r);
    if (order != nullptr) {
      if (r + 1 < share.end) fetch(row(r + 1), cols * int64_t{sizeof(float)});
      order->ask_more(kLinesPerRow);
    }
    if (source.norm != nullptr) {
      kernels_.rms_norm({x, source.norm->weight.data(), cols, source.norm->eps, to.values});
      x = to.values;
    }
    if (linear.needs_codes()) {
      kernels_.quantise(x, cols, to.codes, to.groups);
      if (to.tiles.data != nullptr)
        put_groups(to.tiles, to.first_row++, 0, cols / contract::kGroup, to.codes, to.groups);
    }
    if (linear.needs_brain()) kernels_.round_brain(x, cols, to.brain);
    to.values += cols;
    to.codes += cols;
    to.groups += cols / contract::kGroup;
    to.brain += brain_stride(cols);
  }
}

template <class Work>
void CpuBackend::with_rows(const RowSource& source, const CpuLinear& linear, const Work& work) {
  BATON_CHECK(linear.cols() <= max_cols_ && source.rows <= batch_.rows());
  if (source.rows == 0) return;
  BATON_CHECK(source.norm == nullptr || static_cast<int64_t>(source.norm->weight.size()) == linear.cols());
  const bool ready = source.norm == nullptr && !linear.needs_codes() && !linear.needs_brain();
  if (shares_.by_rows() && source.rows == batch_.rows()) {
    // A thread's place does not depend on the columns: another one may be at an operation with more of them.
    pool_.run_apart([&](int thread) {
      const Share rows = shares_.of(thread);
      if (rows.begin == rows.end) return;
      PreparedRows own = shared_rows_.from(rows.begin, max_cols_);
      own.tiles = tiles_of_rows(shared_rows_, thread, rows, linear.cols());
      if (!ready) prepare(source, linear, rows, own, nullptr);
      work({.thread = thread, .rows = rows}, activations(own, source, linear, rows, thread));
    });
    return;
  }
  if (shares_.by_rows()) pool_.run([](int) {});  // some of the rows were made by others
  const Share all = {0, source.rows};
  const auto part = [&](int thread) { return Part{thread, all, thread, pool_.size()}; };
  if (source.rows <= kPrivateRows || ready) {
    pool_.run([&](int thread) {
      const PreparedRows own = private_rows_[thread].from(0, 0);
      if (!ready) prepare(source, linear, all, own, order_of(thread));
      work(part(thread), activations(own, source, linear, all, thread));
    });
    return;
  }
  const RowTiles tiles = tiles_of_rows(shared_rows_, 0, all, linear.cols());
  pool_.run([&](int thread) {
    const Share rows = share_of(source.rows, thread, pool_.size());
    PreparedRows some = shared_rows_.from(rows.begin, linear.cols());
    some.tiles = tiles;
    some.first_row = rows.begin;
    prepare(source, linear, rows, some, order_of(thread));
  });
  pool_.run([&](int thread) {
    PreparedRows prepared = shared_rows_.from(0, 0);
    prepared.tiles = tiles;
    work(part(thread), activations(prepared, source, linear, all, thread));
  });
}

void CpuBackend::multiply(const RowSource& source, const CpuLinear& linear, const CpuLinear::Output& to) {
  with_rows(source, linear, [&](const Part& part, const Activations& x) {
    CpuLinear::Output own = to;
    own.out += part.rows.begin * to.stride;
    own.kv = early_kv(part.thread);
    own.order = order_of(part.thread);
    linear.multiply(kernels_, share_of(linear.panels(), part.panels_index, part.panels_of), x, own);
  });
}

// What follows is attention.
void CpuBackend::norm_linear(const NormWeights& norm, const Linear& linear, const float* x, float* out) {
  const auto& l = static_cast<const CpuLinear&>(linear);
  with_rows({.x = x, .rows = batch_.rows(), .norm = &norm}, l,
            [&](const Part& part, const Activations& rows) {
              l.multiply(kernels_, share_of(l.panels(), part.panels_index, part.panels_of), rows,
                         {.out = out + part.rows.begin * l.rows(),
                          .stride = l.rows(),
                          .kv = &ahead_[part.thread].kv,
                          .order = order_of(part.thread)});
            });
}

void CpuBackend::linear_add(const Linear& linear, const float* x, float* residual) {
  const auto& l = static_cast<const CpuLinear&>(linear);
  multiply({.x = x, .rows = batch_.rows()}, l, {.out = residual, .stride = l.rows(), .add = true});
}

void CpuBackend::run_on_host(int count, absl::FunctionRef<void(int i, int thread)> work) {
  if (count <= 1 || pool_.size() == 1) return Backend::run_on_host(count, work);
  pool_.run([&](int thread) {
    for (int i = thread; i < count; i += pool_.size()) work(i, thread);
  });
}

void CpuBackend::keep_logit_rows(std::span<const RowTensor> tensors) {
  alone([&] {
    batch_ = kernels::keep_logit_rows(batch_, tensors, kept_rows_);
    plan_shares();
  });
}

void CpuBackend::head(const NormWeights& norm, const Linear& linear, const float* x, const LogitRows& out) {
  const auto& l = static_cast<const CpuLinear&>(linear);
  BATON_CHECK(l.parts() == 1);
  const auto rows = static_cast<int64_t>(batch_.logit_rows.size());
  with_rows({.x = x, .rows = rows, .norm = &norm, .index = batch_.logit_rows.data()}, l,
            [&](const Part& part, const Activations& normed) {
              const Share blocks = share_of(logit_blocks(l.rows()), part.panels_index, part.panels_of);
              head_blocks(l, blocks, normed, out.from(part.rows.begin, l.rows()), order_of(part.thread));
            });
}

// So many blocks at a time that the logits are still in the second cache when the largest are sought.
void CpuBackend::head_blocks(const CpuLinear& linear, Share blocks, const Activations& x,
                             const LogitRows& out, WeightOrder* order) const {
  constexpr int64_t kPanels = kLogitBlock / kPanelRows;
  const int64_t vocabulary = linear.rows();
  const int64_t some = std::max<int64_t>(1, kHotLogits / (kLogitBlock * x.rows));
  for (int64_t begin = blocks.begin; begin < blocks.end; begin += some) {
    const int64_t end = std::min(begin + some, blocks.end);
    linear.multiply(kernels_, {begin * kPanels, std::min(end * kPanels, linear.panels())}, x,
                    {.out = out.values, .stride = vocabulary, .order = order});
    const int64_t first = begin * kLogitBlock;
    const auto count = static_cast<size_t>(std::min(end * kLogitBlock, vocabulary) - first);
    for (int64_t r = 0; r < x.rows; ++r) {
      const LogitRows row = out.from(r, vocabulary);
      row.look_over_blocks(begin, {row.values + first, count});
    }
  }
}

CpuBackend::ActivatedRows CpuBackend::ActivatedRows::from(int64_t row, int64_t width) const {
  ActivatedRows out = *this;
  if (values != nullptr) out.values += row * width;
  if (codes != nullptr) out.codes += row * width;
  if (groups != nullptr) out.groups += row * (width / contract::kGroup);
  return out;
}

// gate in the first half of the outputs, up in the second; `share` counts panels of one half.
void CpuBackend::gate_up_panels(const CpuLinear& linear, Share share, const Activations& x, int thread,
                                const ActivatedRows& out) {
  float* scratch = gate_up_scratch_.as<float>() + thread * gate_up_floats(batch_.rows());
  WeightOrder* order = order_of(thread);
  const int64_t width = linear.rows() / 2;
  const bool two_parts = linear.parts() == 2;
  const int64_t up_offset = two_parts ? 0 : width / kPanelRows;
  const int64_t block = std::max<int64_t>(2, kGateUpFloats / (2 * kPanelRows * x.rows) / 2 * 2);
  for (int64_t panel = share.begin; panel < share.end; panel += block) {
    const int64_t end = std::min(panel + block, share.end);
    const int64_t half = (end - panel) * kPanelRows, column = panel * kPanelRows;
    const CpuLinear::Output gate = {
        .out = scratch, .stride = 2 * half, .kv = early_kv(thread), .order = order};
    CpuLinear::Output up = gate;
    up.out += half;
    linear.multiply_part(kernels_, 0, {panel, end}, x, gate);
    linear.multiply_part(kernels_, two_parts ? 1 : 0, {panel + up_offset, end + up_offset}, x, up);
    const int64_t count = std::min(half, width - column);
    for (int64_t r = 0; r < x.rows; ++r) {
      float* row = gate.out + r * 2 * half;
      if (order != nullptr) order->ask_more(kLinesPerRow);
      float* to = out.codes != nullptr ? row : out.values + r * width + column;
      kernels_.silu_multiply(row, row + half, count, to);
      if (out.codes == nullptr) continue;
      int8_t* codes = out.codes + r * width + column;
      ActivationGroup* groups = out.groups + (r * width + column) / contract::kGroup;
      kernels_.quantise(row, count, codes, groups);
      if (out.tiles.data != nullptr)
        put_groups(out.tiles, r, column / contract::kGroup, count / contract::kGroup, codes, groups);
    }
  }
}

void CpuBackend::run_gate_up(const NormWeights& norm, const CpuLinear& linear, const float* x,
                             const ActivatedRows& out) {
  const int64_t width = linear.rows() / 2, half_panels = (width + kPanelRows - 1) / kPanelRows;
  const bool halves = (linear.parts() == 2 && linear.part(0).rows() == width) ||
                      (linear.parts() == 1 && width % kPanelRows == 0);
  BATON_CHECK(halves && linear.rows() % 2 == 0,
              "gate_up: want the parts gate and up, or one part of 32 n rows");
  with_rows(
      {.x = x, .rows = batch_.rows(), .norm = &norm}, linear, [&](const Part& part, const Activations& rows) {
        // Whole groups of 32: two panels.
        const Share pairs = share_of((half_panels + 1) / 2, part.panels_index, part.panels_of);
        ActivatedRows own = out.from(part.rows.begin, width);
        if (out.codes != nullptr)
          own.tiles = tiles_of_rows(hidden_rows_, part.panels_of == 1 ? part.thread : 0, part.rows, width);
        gate_up_panels(linear, {2 * pairs.begin, std::min(2 * pairs.end, half_panels)}, rows, part.thread,
                       own);
      });
}

void CpuBackend::gate_up(const NormWeights& norm, const Linear& gate_up, const float* x, float* out) {
  run_gate_up(norm, static_cast<const CpuLinear&>(gate_up), x, {.values = out});
}

void CpuBackend::feed_forward(const NormWeights& norm, const Linear& first, const Linear& down,
                              float* residual, float* scratch) {
  const auto& d = static_cast<const CpuLinear&>(down);
  if (d.needs_values() || d.needs_brain()) return Backend::feed_forward(norm, first, down, residual, scratch);
  BATON_CHECK(first.rows() == 2 * d.cols());
  const ActivatedRows hidden = {.codes = hidden_rows_.codes.as<int8_t>(),
                                .groups = hidden_rows_.groups.as<ActivationGroup>()};
  run_gate_up(norm, static_cast<const CpuLinear&>(first), residual, hidden);
  const auto multiply = [&](Share rows, Share panels, int thread) {
    const ActivatedRows own = hidden.from(rows.begin, d.cols());
    if (order_of(thread) != nullptr) {
      const int64_t codes = (rows.end - rows.begin) * d.cols();
      fetch(own.codes, codes);
      fetch(own.groups, codes / contract::kGroup * int64_t{sizeof(ActivationGroup)});
    }
    d.multiply(kernels_, panels,
               {.rows = rows.end - rows.begin,
                .cols = d.cols(),
                .codes = own.codes,
                .groups = own.groups,
                .tiles = tiles_of_rows(hidden_rows_, shares_.by_rows() ? thread : 0, rows, d.cols()),
                .opened = opened_[thread].data()},
               {.out = residual + rows.begin * d.rows(),
                .stride = d.rows(),
                .add = true,
                .kv = &ahead_[thread].kv,  // of the next layer, whose queries come next
                .order = order_of(thread)});
  };
  if (shares_.by_rows())
    return pool_.run_apart([&](int thread) { multiply(shares_.of(thread), {0, d.panels()}, thread); });
  pool_.run(
      [&](int thread) { multiply({0, batch_.rows()}, share_of(d.panels(), thread, pool_.size()), thread); });
}

void CpuBackend::rope_store(int layer, const NormWeights* q_norm, const NormWeights* k_norm, float* qkv) {
  const RopeStore::Call call = rope_call({layer, q_norm, k_norm}, qkv);
  const auto work = [&](int thread) { store_rows(call, rows_of(thread)); };
  keeps_to_itself_ ? pool_.run_apart(work) : pool_.run(work);
}

void CpuBackend::store_rows(const RopeStore::Call& call, Share share) const {
  for (size_t s = 0; s < batch_.sequences.size(); ++s) {
    const SequenceRows& sequence = batch_.sequences[s];
    const int64_t begin = std::max<int64_t>(0, share.begin - sequence.first_row);
    const int64_t end = std::min<int64_t>(sequence.row_count, share.end - sequence.first_row);
    if (begin >= end) continue;
    const bool goes_on = sequence.first_row + sequence.row_count < share.end;  // with the next sequence
    if (goes_on) rope_.expect_row(call, batch_.sequences[s + 1], 0);
    for (int64_t i = begin; i < end; ++i) rope_.store_row(call, sequence, static_cast<int>(i));
  }
}

RopeStore::Call CpuBackend::rope_call(const RopeAttention& call, float* qkv) const {
  for (const NormWeights* norm : {call.q_norm, call.k_norm})
    BATON_CHECK(norm == nullptr || static_cast<int>(norm->weight.size()) == attention_.head_dim);
  return {.layer = call.layer, .kv = &kv_, .q_norm = call.q_norm, .k_norm = call.k_norm, .qkv = qkv};
}

void CpuBackend::rope_attention(const RopeAttention& call, float* qkv, float* out,
                                absl::FunctionRef<void()> stored) {
  if (!paged_attention_.fuses()) return Backend::rope_attention(call, qkv, out, stored);
  paged_attention_.run(rope_, rope_call(call, qkv), out, stored);
  expect_kv(call.layer + 1);
}

void CpuBackend::attention(int layer, const float* qkv, float* out) {
  paged_attention_.run(layer, kv_, qkv, out);
  expect_kv(layer + 1);
}

void CpuBackend::expect_kv(int layer) {
  pool_.run_apart([&](int thread) { ahead_[thread].kv = paged_attention_.lines_ahead(thread, layer); });
}

}  // namespace baton::kernels::cpu
