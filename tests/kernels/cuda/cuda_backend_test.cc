// What the CUDA backend refuses, holds and replays, on the emulated device.
#include <gmock/gmock.h>

#include <thread>

#include "kernels/float16.h"
#include "kernels/weight_slice.h"
#include "tests/golden/model_under_test.h"
#include "tests/kernels/cuda/emulation/emulated_runtime.h"
#include "tests/support/fp8_checkpoint.h"
#include "tests/support/random_model.h"
#include "tests/worker/model/temp_dir.h"

namespace baton::kernels::cuda {
namespace {

using baton::testing::EngineSetup;
using baton::testing::ModelUnderTest;
using baton::testing::RandomModel;
using baton::testing::TempDir;
using ::testing::HasSubstr;

EngineSetup cuda_setup() {
  EngineSetup setup;
  setup.device = "cuda";
  setup.numerics = Numerics::kBrainDots;
  setup.kv = KvType::kBF16;
  setup.blocks = 40;
  setup.max_rows = 100;
  return setup;
}

class Device : public ::testing::Test {
 protected:
  ~Device() override { emulated::limits() = {}; }
  std::string refusal(const EngineSetup& setup) {
    EXPECT_TRUE(RandomModel({}).write_gguf(dir_.file("m.gguf")));
    const auto engine = ModelUnderTest::open(dir_.file("m.gguf"), setup);
    return engine.ok() ? "" : std::string(engine.status().message());
  }
  TempDir dir_{"cuda"};
};

TEST_F(Device, NoDriverAndNoDeviceSaySo) {
  emulated::limits().count_error = cudaErrorInsufficientDriver;
  EXPECT_THAT(refusal(cuda_setup()), HasSubstr("there is no NVIDIA driver here"));
  emulated::limits().count_error = cudaErrorNoDevice;
  EXPECT_THAT(refusal(cuda_setup()), HasSubstr("device cpu works without"));
}

TEST_F(Device, WhatItCannotDoIsRefused) {
  EngineSetup setup = cuda_setup();
  setup.device = "cuda:1";
  EXPECT_THAT(refusal(setup), HasSubstr("there are 1 devices"));
  setup.device = "cuda:x";
  EXPECT_THAT(refusal(setup), HasSubstr("cuda:MIG-<uuid>"));
  setup = cuda_setup();
  setup.numerics = Numerics::kFloat;
  EXPECT_THAT(refusal(setup), HasSubstr("want bf16dot, invariant or fastest"));
  setup = cuda_setup();
  setup.kv = KvType::kF32;
  EXPECT_THAT(refusal(setup), HasSubstr("kv.dtype"));
  setup = cuda_setup();
  setup.block_tokens = 48;
  EXPECT_THAT(refusal(setup), HasSubstr("kv.blockTokens"));
}

// Other sums, another class: workers that differ in it do not hand streams over silently.
TEST_F(Device, MatrixInstructionsAreANumericsClass) {
  const BackendOptions options = {.device = "cuda", .numerics = Numerics::kBrainDots};
  DeviceOptions device;
  const auto id = [&] { return (*make_device_backend(options, device))->numerics_id(KvType::kBF16); };
  EXPECT_EQ(id(), "cuda-bf16-wgmma-v4-sm90/kv-bf16");
  device.quantization = Quantization::kFp8;
  EXPECT_EQ(id(), "cuda-fp8-wgmma-v4-sm90/kv-bf16");
  ::setenv("BATON_CUDA_WGMMA", "0", 1);
  EXPECT_THAT(make_device_backend(options, device).status().message(),
              HasSubstr("quantization fp8 wants wgmma"));
  device.quantization = Quantization::kNone;
  EXPECT_EQ(id(), "cuda-bf16-mma-v4-sm90/kv-bf16");
  ::unsetenv("BATON_CUDA_WGMMA");
}

// Numbers and scales of a checkpoint are those that are multiplied: the reference opens the same ones,
// without rounding.
TEST_F(Device, FollowsTheReferenceWithAnFp8Checkpoint) {
  baton::testing::write_fp8_checkpoint(dir_.file("hf"), {.hidden = 192, .ffn = 160});
  EngineSetup setup = cuda_setup();
  setup.device_options.quantization = Quantization::kFp8;
  setup.fp8_matrices = worker::ModelFile::Fp8Matrices::kKept;
  const auto cuda = ModelUnderTest::open(dir_.file("hf"), setup);
  ASSERT_TRUE(cuda.ok()) << cuda.status();
  const auto reference =
      ModelUnderTest::open(dir_.file("hf"), {.fp8_matrices = setup.fp8_matrices, .blocks = 40});
  ASSERT_TRUE(reference.ok()) << reference.status();
  std::vector<std::vector<float>> logits;
  const std::vector<TokenId> tokens = {3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46};
  for (ModelUnderTest* engine : {cuda->get(), reference->get()})
    engine->forward(tokens, std::vector<int32_t>{10},
                    [&](int32_t, std::span<const float> l) { logits.emplace_back(l.begin(), l.end()); });
  double worst = 0, spread = 0;
  for (size_t v = 0; v < logits[1].size(); ++v) {
    worst = std::max(worst, std::abs(double{logits[0][v]} - logits[1][v]));
    spread = std::max(spread, std::abs(double{logits[1][v]}));
  }
  EXPECT_LT(worst, 0.3 * spread);
  EXPECT_GT(worst, 0);
}

// A rank's columns of a matrix lie further apart than they are long.
TEST_F(Device, SomeColumnsOfAMatrixAreItsOwn) {
  const auto backend = *make_backend({.device = "cuda", .numerics = Numerics::kBrainDots});
  ASSERT_TRUE(backend->set_attention({1, 1, 8, 1.0f, 0}, {}).ok());
  ASSERT_TRUE(backend->attach_kv({}, {1, 1, 8, 16, KvType::kBF16, 1}).ok());
  std::vector<uint16_t> whole(16 * 128), part(16 * 64);
  for (size_t i = 0; i < whole.size(); ++i) whole[i] = float_to_bfloat16(static_cast<float>(i % 37) - 18);
  for (size_t i = 0; i < part.size(); ++i) part[i] = whole[i / 64 * 128 + 64 + i % 64];
  const WeightView all = {DType::kBF16, reinterpret_cast<const std::byte*>(whole.data()), 16, 128};
  const WeightView own = {DType::kBF16, reinterpret_cast<const std::byte*>(part.data()), 16, 64};
  auto* x = reinterpret_cast<uint16_t*>(backend->allocate(64));
  for (int i = 0; i < 64; ++i) x[i] = float_to_bfloat16(static_cast<float>(i));
  std::vector<std::vector<float>> results;
  for (const WeightView& view : {*columns_of(all, 64, 64), own}) {
    const auto linear = *backend->make_linear({{view}, {}, 1});
    float* out = backend->allocate(16);
    const std::vector<TokenId> tokens = {0};
    const std::vector<int32_t> positions = {0};
    const std::vector<BlockId> blocks = {BlockId(0)};
    const std::vector<SequenceRows> rows = {{0, 1, 0, blocks}};
    backend->begin_step({tokens, positions, rows, {}});
    backend->linear_part(*linear, reinterpret_cast<const float*>(x), out);
    ASSERT_TRUE(backend->finish_step().ok());
    results.emplace_back(out, out + 16);
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_NE(results[0][0], 0);
}

// The engine's thread is not the one that made the backend, and begins with device 0.
TEST_F(Device, TheSecondDeviceIsChosenInEveryThread) {
  emulated::limits().devices = 2;
  ASSERT_TRUE(RandomModel({}).write_gguf(dir_.file("m.gguf")));
  EngineSetup setup = cuda_setup();
  setup.device = "cuda:1";
  auto engine = ModelUnderTest::open(dir_.file("m.gguf"), setup);
  ASSERT_TRUE(engine.ok()) << engine.status();
  std::vector<TokenId> tokens;
  std::thread([&] { tokens = (*engine)->greedy({1, 2, 3}, 4); }).join();
  EXPECT_EQ(tokens.size(), 4u);
  engine->reset();
  cudaSetDevice(0);
}

TEST_F(Device, AKvPoolThatDoesNotFitNamesTheKey) {
  emulated::limits().memory = emulated::counts().bytes_held + (2 << 20);
  EngineSetup setup = cuda_setup();
  setup.blocks = 4096;
  EXPECT_THAT(refusal(setup), HasSubstr("lower kv.memory"));
}

// A byte a weight and a scale for 8 rows of a block, but for the head.
TEST_F(Device, Fp8HalvesTheWeightsOfLayersAndLeavesTheHead) {
  const std::vector<uint16_t> stored(256 * 256, float_to_bfloat16(1.0f));
  const WeightView view = {DType::kBF16, reinterpret_cast<const std::byte*>(stored.data()), 256, 256};
  const auto backend = *make_device_backend({.device = "cuda", .numerics = Numerics::kBrainDots},
                                            {.quantization = Quantization::kFp8, .algorithms = {}});
  const LinearSpec layer = {.parts = {view}, .bias = {}, .k_shards = 4}, head = {.parts = {view}, .bias = {}};
  EXPECT_EQ(backend->packed_bytes(head), 256u * 256 * 2);
  EXPECT_EQ(backend->packed_bytes(layer), 256u * 256 + 2 * 32 * sizeof(float));
  EXPECT_EQ((*backend->make_linear(layer))->bytes(), backend->packed_bytes(layer));
}

// An error of the device ends the worker's life: it must say in which step, and whose.
TEST_F(Device, AnErrorNamesKernelStepAndSequences) {
  ASSERT_TRUE(RandomModel({}).write_gguf(dir_.file("m.gguf")));
  const auto failing_step = [&] {
    auto engine = *ModelUnderTest::open(dir_.file("m.gguf"), cuda_setup());
    worker::Sequence a = engine->make_sequence({1, 2, 3}, 8), b = engine->make_sequence({4, 5}, 8);
    emulated::limits().wait_error = cudaErrorInvalidValue;
    const worker::PlannedRows rows[] = {{&a, 0, 3, true, false}, {&b, 0, 2, true, false}};
    worker::StepPlan plan;
    plan.id = StepId(7), plan.rows.assign(std::begin(rows), std::end(rows)), plan.total_rows = 5;
    worker::StepResult result;
    const absl::Status status = engine->runner().run(plan, {}, result);
    emulated::limits().wait_error = cudaSuccess;
    EXPECT_THAT(status.message(), HasSubstr(to_string(a.id)));
    EXPECT_THAT(status.message(), HasSubstr(to_string(b.id)));
    EXPECT_THAT(status.message(), HasSubstr(to_string(plan.id)));
    return std::string(status.message());
  };
  EXPECT_THAT(failing_step(), HasSubstr("BATON_CUDA_SYNC=1 names it"));
  ::setenv("BATON_CUDA_SYNC", "1", 1);
  EXPECT_THAT(failing_step(), HasSubstr("kernel embed"));
  ::unsetenv("BATON_CUDA_SYNC");
}

// CUDA keeps "not ready" as a thread's last error, where the next launch would take it for its own.
TEST_F(Device, WaitingIsNoErrorOfTheNextLaunch) {
  ASSERT_TRUE(RandomModel({}).write_gguf(dir_.file("m.gguf")));
  auto engine = *ModelUnderTest::open(dir_.file("m.gguf"), cuda_setup());
  emulated::limits().event_queries = 2, emulated::limits().stream_queries = 3;
  worker::Sequence s = engine->make_sequence({1, 2, 3}, 8);
  s.leg = Leg::kPrefill;
  int told = 0;
  for (int step = 0; step < 2; ++step) engine->run({{&s, 0, 3, true, false}}, [&](int) { ++told; });
  EXPECT_EQ(told, 4) << "layers";
}

// A kernel that never ends: the step does, with an error, and the process with the backend, because nothing
// that frees memory would return.
TEST_F(Device, AKernelThatNeverEndsEndsTheProcess) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const auto hang = [&] {
    EXPECT_TRUE(RandomModel({}).write_gguf(dir_.file("m.gguf")));
    ::setenv("BATON_CUDA_DEADLINE", "0.05", 1);
    auto engine = *ModelUnderTest::open(dir_.file("m.gguf"), cuda_setup());
    worker::Sequence a = engine->make_sequence({1, 2, 3}, 8);
    emulated::limits().wait_error = cudaErrorNotReady;
    worker::StepPlan plan;
    plan.id = StepId(7), plan.rows = {{&a, 0, 3, true, false}}, plan.total_rows = 3;
    worker::StepResult result;
    std::fprintf(stderr, "%s\n", std::string(engine->runner().run(plan, {}, result).message()).c_str());
    engine.reset();
    std::exit(0);
  };
  EXPECT_EXIT(hang(), ::testing::ExitedWithCode(1), "have not ended for 0.05.*BATON_CUDA_DEADLINE");
}

// A step of 9 rows is a graph of 16: nothing that it reads lies beyond what was allocated for 9 (the emulated
// tensor maps look).
TEST_F(Device, ABucketWithMoreRowsThanTheLargestStepHasRoom) {
  ASSERT_TRUE(RandomModel({.hidden = 64, .ffn = 512}).write_gguf(dir_.file("m.gguf")));
  EngineSetup setup = cuda_setup();
  setup.max_rows = 9;
  auto engine = *ModelUnderTest::open(dir_.file("m.gguf"), setup);
  std::vector<worker::Sequence> sequences;
  for (int i = 0; i < 9; ++i) sequences.push_back(engine->make_sequence({i + 1}, 8));
  for (int step = 0; step < 4; ++step) {
    std::vector<worker::PlannedRows> plan;
    for (worker::Sequence& s : sequences)
      plan.push_back({&s, static_cast<int32_t>(s.tokens.size()) - 1, 1, true, false});
    const worker::StepResult result = engine->run(plan);
    for (size_t i = 0; i < sequences.size(); ++i)
      sequences[i].tokens.push_back(result.sampled[i].token.value().token);
  }
  EXPECT_EQ(sequences[0].tokens.size(), 5u);
}

// Layers of a prompt are told of only when somebody waits for them, and their events are used again.
TEST_F(Device, PromptsLeaveNoEventsBehind) {
  ASSERT_TRUE(RandomModel({}).write_gguf(dir_.file("m.gguf")));
  auto engine = *ModelUnderTest::open(dir_.file("m.gguf"), cuda_setup());
  engine->greedy({1, 2, 3}, 2);
  const int before = emulated::counts().events_held;
  for (int i = 0; i < 5; ++i) engine->greedy({1, 2, 3, 4 + i}, 2);
  EXPECT_EQ(emulated::counts().events_held, before);
}

// Of a bucket the first step runs, the second is recorded, the others are replayed; a prompt is none.
TEST_F(Device, DecodeStepsAreReplayedAndMemoryIsGivenBack) {
  const emulated::Counts before = emulated::counts();
  ASSERT_TRUE(RandomModel({}).write_gguf(dir_.file("m.gguf")));
  auto engine = ModelUnderTest::open(dir_.file("m.gguf"), cuda_setup());
  ASSERT_TRUE(engine.ok()) << engine.status();
  (*engine)->greedy({1, 2, 3}, 6);  // one prompt step, five of one row
  EXPECT_EQ(emulated::counts().graphs_made - before.graphs_made, 1);
  EXPECT_EQ(emulated::counts().graphs_launched - before.graphs_launched, 4);
  EXPECT_GT(emulated::counts().bytes_held, before.bytes_held);
  engine->reset();
  EXPECT_EQ(emulated::counts().bytes_held, before.bytes_held);
}

}  // namespace
}  // namespace baton::kernels::cuda
