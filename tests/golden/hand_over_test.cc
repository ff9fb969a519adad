// Design I1 over hand-overs between groups of ranks: a prompt computed by one group, decoded by another of
// the same or of another shape, has the tokens and logits of one process, bit for bit. Ranks are threads; the
// bytes go through data planes, layer by layer while the prompt is computed.
#include <gmock/gmock.h>

#include <map>
#include <mutex>
#include <thread>

#include "base/cat.h"
#include "base/check.h"
#include "base/rng.h"
#include "tests/golden/model_under_test.h"
#include "tests/golden/random_file.h"
#include "transport/data/host_id.h"
#include "transport/data/process_data_plane.h"
#include "worker/kv_transfer/kv_exchange_agent.h"
#include "worker/model/model_shard.h"

namespace baton {
namespace {

using testing::EngineSetup;
using testing::ModelUnderTest;
using worker::ParallelShape;
using worker::Sequence;

constexpr int32_t kChunk = 23;
constexpr int kTokens = 6;

struct Outcome {
  std::vector<TokenId> tokens;
  std::vector<std::vector<float>> logits;  // that each token was drawn from
};

void note(ModelUnderTest& engine, const worker::StepResult& result, Outcome& out) {
  out.tokens.push_back(result.sampled.at(0).token->token);
  const auto logits = engine.runner().logits(0);
  out.logits.emplace_back(logits.begin(), logits.end());
}

// A worker: its ranks with their models, planes and agents.
class Worker {
 public:
  Worker(const std::string& name, const std::string& path, EngineSetup setup, const std::string& lane)
      : ref_{name, Incarnation(1)}, shape_(setup.shape) {
    setup.pool = [&](int rank, size_t bytes) { return make_plane(rank, bytes, lane); };
    setup.on_layer = [this](int rank, int layer, const worker::BatchRows& rows) {
      for (const auto& send : rows.sends) {
        const auto& s = rows.sequences[send.sequence];
        agents_[rank]->layer_ready(send.transfer, layer, s.first_position + s.row_count, s.row_count);
      }
    };
    auto opened = ModelUnderTest::open(path, setup);
    BATON_CHECK(opened.ok(), std::string(opened.status().message()).c_str());
    engine = *std::move(opened);
    for (int rank = 0; rank < shape_.ranks(); ++rank) make_agent(rank, setup);
    progress_ = std::jthread([this](const std::stop_token& stop) {
      while (!stop.stop_requested()) turn();
    });
  }
  ~Worker() {
    engine->stop();
    progress_.request_stop();
  }
  WorkerDescription description() const {
    worker::ParallelShape shape = shape_;
    if (shape.pipeline > 1 && shape.stage_layers.empty())
      shape.stage_layers = worker::even_layers(engine->file().spec().layers, shape.pipeline);
    return {.ref = ref_, .data_address = to_text(worker::KvAddress{shape, addresses_})};
  }
  const WorkerRef& ref() const { return ref_; }
  worker::KvExchangeAgent& agent() { return *agents_[0]; }
  uint64_t bytes_received() const {
    uint64_t sum = 0;
    for (const auto& agent : agents_) sum += agent->counters().bytes_received;
    return sum;
  }
  // Waits for what the progress thread says.
  template <class Done>
  bool until(Done done) {
    const Instant limit = clock_.now() + std::chrono::seconds(60);
    while (clock_.now() < limit) {
      {
        std::lock_guard lock(mutex_);
        if (done()) return true;
      }
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    return false;
  }
  bool connected = false;                  // inside until() only
  std::map<TransferId, std::string> ends;  // inside until() only; "" = well
  std::unique_ptr<ModelUnderTest> engine;

 private:
  std::span<std::byte> make_plane(int rank, size_t bytes, const std::string& lane) {
    auto plane = transport::make_process_data_plane(
        {.identity = {.self = worker::rank_ref(ref_, rank), .host_id = transport::host_id()},
         .lanes = *transport::parse_lanes(lane),
         .pool_bytes = bytes});
    BATON_CHECK(plane.ok(), std::string(plane.status().message()).c_str());
    planes_.push_back(*std::move(plane));
    addresses_.push_back(planes_.back()->address());
    return planes_.back()->pool();
  }
  void make_agent(int rank, const EngineSetup& setup) {
    const auto& file = engine->file();
    const auto shard = worker::shard_of(file.spec(), file.weights(), shape_, rank);
    auto made = worker::KvExchangeAgent::create(
        *planes_[rank],
        {.geometry = worker::kv_geometry(shard->spec, setup.block_tokens, setup.kv, setup.blocks),
         .layout = engine->backend().kv_layout_name(),
         .model = worker::split_model(file.spec(), file.weights()),
         .shape = shape_,
         .rank = rank,
         .events = [this](const worker::KvEvent& event) { on_event(event); },
         .peers =
             [this](const PeerReport& report) {
               std::lock_guard lock(mutex_);
               connected = report.connected;
             },
         .worker = ref_,
         .key = {3, 4},
         .addresses = addresses_});
    BATON_CHECK(made.ok(), std::string(made.status().message()).c_str());
    agents_.push_back(*std::move(made));
  }
  void on_event(const worker::KvEvent& event) {
    std::lock_guard lock(mutex_);
    if (const auto* landed = std::get_if<worker::KvLanded>(&event)) ends[landed->transfer] = "";
    if (const auto* drained = std::get_if<worker::KvDrained>(&event))
      ends[drained->transfer] = drained->error;
  }
  void turn() {
    int done = 0;
    for (const auto& agent : agents_) done += agent->do_work(clock_.now());
    if (done == 0) std::this_thread::sleep_for(std::chrono::microseconds(100));
  }

  const WorkerRef ref_;
  const ParallelShape shape_;
  SteadyClock clock_;
  std::vector<std::unique_ptr<transport::DataPlane>> planes_;
  std::vector<std::string> addresses_;
  std::vector<std::unique_ptr<worker::KvExchangeAgent>> agents_;
  std::mutex mutex_;
  std::jthread progress_;
};

// One process does it all.
Outcome alone(ModelUnderTest& engine, const std::vector<TokenId>& prompt) {
  Outcome out;
  Sequence s = engine.make_sequence(prompt, static_cast<int64_t>(prompt.size()) + kTokens);
  const auto size = static_cast<int32_t>(prompt.size());
  note(engine, engine.run({{&s, 0, size, true, false}}), out);
  for (int32_t i = 1; i < kTokens; ++i) {
    s.tokens.push_back(out.tokens.back());
    note(engine, engine.run({{&s, size + i - 1, 1, true, false}}), out);
  }
  return out;
}

std::vector<uint32_t> generations(size_t n) { return std::vector<uint32_t>(n, 1); }

// Two workers; keeps the decode worker's last sequence, whose blocks are a prefix of the next.
class Pair {
 public:
  Pair(Worker& prefill, Worker& decode) : prefill_(prefill), decode_(decode) {
    BATON_CHECK(prefill.agent().connect(decode.description()) &&
                decode.agent().connect(prefill.description()));
    BATON_CHECK(prefill.until([&] { return prefill.connected; }) &&
                decode.until([&] { return decode.connected; }));
  }
  // The first `held` blocks of the prompt are those of the sequence before.
  Outcome hand_over(const std::vector<TokenId>& prompt, size_t held) {
    const TransferId id(++last_);
    const auto size = static_cast<int32_t>(prompt.size());
    const size_t blocks = (prompt.size() + 15) / 16;
    Sequence to = decode_.engine->make_sequence(prompt, int64_t{size} + kTokens);
    std::copy_n(kept_.begin(), held, to.blocks.begin());
    kept_ = to.blocks;
    Sequence from = prefill_.engine->make_sequence(prompt);
    from.leg = Leg::kPrefill;
    from.transfer = id;
    BATON_CHECK(decode_.agent()
                    .expect({.transfer = id,
                             .source = prefill_.ref(),
                             .first_block = static_cast<int32_t>(held),
                             .prompt_tokens = size,
                             .blocks = {to.blocks.begin() + static_cast<ptrdiff_t>(held),
                                        to.blocks.begin() + static_cast<ptrdiff_t>(blocks)},
                             .generations = generations(blocks - held)})
                    .ok());
    BATON_CHECK(
        prefill_.agent()
            .send(
                {.transfer = id, .destination = decode_.ref(), .prompt_tokens = size, .blocks = from.blocks})
            .ok());
    Outcome out;
    for (int32_t at = 0; at < size; at += kChunk) {
      const int32_t count = std::min(kChunk, size - at);
      const bool last = at + count == size;
      const auto result = prefill_.engine->run({{&from, at, count, last, false}}, [&](int layer) {
        prefill_.agent().layer_ready(id, layer, at + count, count);
      });
      if (last) note(*prefill_.engine, result, out);
    }
    prefill_.agent().finish(id, {.token = out.tokens.at(0)}, FinishReason::kNone);
    BATON_CHECK(decode_.until([&] { return decode_.ends.contains(id); }), "the transfer does not end");
    EXPECT_EQ(decode_.ends[id], "");
    for (int32_t i = 1; i < kTokens; ++i) {
      to.tokens.push_back(out.tokens.back());
      note(*decode_.engine, decode_.engine->run({{&to, size + i - 1, 1, true, false}}), out);
    }
    return out;
  }

 private:
  Worker& prefill_;
  Worker& decode_;
  std::vector<BlockId> kept_;
  uint64_t last_ = 0;
};

void expect_same(const Outcome& got, const Outcome& want) {
  EXPECT_EQ(got.tokens, want.tokens);
  ASSERT_EQ(got.logits.size(), want.logits.size());
  for (size_t i = 0; i < want.logits.size(); ++i)
    EXPECT_EQ(std::memcmp(got.logits[i].data(), want.logits[i].data(), want.logits[i].size() * sizeof(float)),
              0)
        << "token " << i;
}

void check(const std::string& path, const EngineSetup& setup, const std::vector<ParallelShape>& shapes) {
  Rng rng(31);
  auto one = ModelUnderTest::open(path, setup);
  ASSERT_TRUE(one.ok()) << one.status();
  std::vector<TokenId> prompt;
  for (int i = 0; i < 71; ++i)
    prompt.push_back(
        static_cast<TokenId>(rng.below(static_cast<uint64_t>((*one)->file().spec().vocab_size))));
  std::vector<TokenId> longer = prompt;  // shares four whole blocks with it
  for (int i = 0; i < 9; ++i) longer.push_back(static_cast<TokenId>(1 + i));
  const Outcome want = alone(**one, prompt), want_longer = alone(**one, longer);
  int number = 0;
  for (const ParallelShape& from : shapes)
    for (const ParallelShape& to : shapes) {
      const std::string lane = ++number % 2 == 0 ? "local" : "socket";
      SCOPED_TRACE(cat(from.tensor, "x", from.pipeline, " to ", to.tensor, "x", to.pipeline, " over ", lane));
      EngineSetup sides[] = {setup, setup};
      sides[0].shape = from;
      sides[0].micro_batch_rows = 5;
      sides[1].shape = to;
      sides[1].block_seed = 2;
      Worker prefill("p-0", path, sides[0], lane), decode("d-0", path, sides[1], lane);
      Pair pair(prefill, decode);
      expect_same(pair.hand_over(prompt, 0), want);
      const uint64_t before = decode.bytes_received();
      expect_same(pair.hand_over(longer, 4), want_longer);
      EXPECT_EQ((decode.bytes_received() - before) * 5, before) << "one block of five";
      if (::testing::Test::HasFailure()) return;
    }
}

EngineSetup cpu_setup() {
  EngineSetup setup;
  setup.device = "cpu";
  setup.kv = kernels::KvType::kBF16;
  setup.blocks = 40;
  return setup;
}

const std::vector<ParallelShape> kGrid = {{1, 1}, {2, 1}, {4, 1}, {1, 2, {4, 1}}, {2, 2, {1, 4}}, {4, 2}};

TEST(HandOver, StoriesFromEveryShapeToEveryOther) {
  const std::string path = testing::shared_model("stories260K-f32.gguf");
  if (path.empty()) GTEST_SKIP() << "shared/models is not here (BATON_SHARED)";
  check(path, cpu_setup(), kGrid);
}

// Two KV heads: with tensor 4 neighbours hold the same one, and one of them sends it.
TEST(HandOver, MoreRanksThanKvHeads) {
  const testing::RandomFile model(testing::shared_kv_heads(3));
  EngineSetup setup = cpu_setup();
  setup.kv = kernels::KvType::kInt8;
  check(model.path(), setup, {{4, 1}, {2, 1}, {4, 2, {1, 2}}, {1, 3}});
}

TEST(HandOver, SmolLm2) {
  if (testing::smollm2_path().empty()) GTEST_SKIP() << "the default model is not here (BATON_SMOLLM2)";
  check(testing::smollm2_path(), cpu_setup(), {{3, 1}, {1, 2, {21, 9}}, {1, 2}});
}

}  // namespace
}  // namespace baton
