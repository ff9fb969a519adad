#include "worker/kv_transfer/host_copier.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <deque>
#include <mutex>

#include "base/agent.h"
#include "base/rng.h"
#include "tests/support/seed.h"
#include "tests/transport/data/fake_device.h"

// Blocks go out and come back over a thread of their own, on the CPU and on a fake GPU.
namespace baton::worker {
namespace {

using transport::FakeDevice;
using transport::FakeMachine;

constexpr kernels::KvGeometry kGeometry{.layers = 3,
                                        .kv_heads = 2,
                                        .head_dim = 8,
                                        .block_tokens = 16,
                                        .type = kernels::KvType::kF32,
                                        .blocks = 6};

class HostCopierTest : public testing::TestWithParam<bool> {
 protected:
  HostCopierTest() {
    options_ = {.geometry = kGeometry, .pool = pool_, .slots = 9};
    if (GetParam()) options_ = {.geometry = kGeometry, .pool = gpu_.kv, .slots = 9, .device = &gpu_};
    auto made = HostCopier::make(options_, clock_, [this](HostCopied end) {
      std::lock_guard lock(mutex_);
      ended_.push_back(std::move(end));
      ready_.notify_one();
    });
    EXPECT_TRUE(made.ok()) << made.status();
    copier_ = *std::move(made);
    thread_.emplace("copier", [this](const std::stop_token& stop) { copier_->run(stop); });
  }
  ~HostCopierTest() override {
    copier_->close();
    thread_.reset();
  }
  HostCopied next() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(ready_.wait_for(lock, std::chrono::seconds(30), [&] { return !ended_.empty(); }));
    HostCopied end = ended_.empty() ? HostCopied{} : ended_.front();
    if (!ended_.empty()) ended_.pop_front();
    return end;
  }
  std::string move(bool out, std::vector<HostCopy::Block> blocks) {
    const HostCopyId id(++last_);
    copier_->copy({.id = id, .out = out, .blocks = std::move(blocks)});
    const HostCopied end = next();
    EXPECT_EQ(end.id, id);
    return end.error;
  }
  std::span<std::byte> piece(int layer, uint32_t block) {
    return options_.pool.subspan(kGeometry.piece_offset(layer, BlockId(block)), kGeometry.piece_bytes());
  }
  void fill(uint32_t block, int with) {
    for (int layer = 0; layer < kGeometry.layers; ++layer)
      std::ranges::fill(piece(layer, block), static_cast<std::byte>(with + layer));
  }
  bool holds(uint32_t block, int with) {
    for (int layer = 0; layer < kGeometry.layers; ++layer)
      for (std::byte b : piece(layer, block))
        if (b != static_cast<std::byte>(with + layer)) return false;
    return true;
  }
  static HostCopy::Block at(uint32_t block, uint32_t slot) { return {BlockId(block), HostSlot(slot)}; }

  SteadyClock clock_;
  std::vector<std::byte> pool_ = std::vector<std::byte>(kGeometry.pool_bytes());
  FakeMachine machine_;
  FakeDevice gpu_{machine_, kGeometry.pool_bytes()};
  HostCopierOptions options_;
  std::unique_ptr<HostCopier> copier_;
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<HostCopied> ended_;
  std::optional<AgentThread> thread_;
  uint64_t last_ = 0;
};

TEST_P(HostCopierTest, BlocksComeBackAnywhere) {
  fill(0, 10);
  fill(5, 20);
  EXPECT_EQ(move(true, {at(0, 8), at(5, 0)}), "");
  for (uint32_t block = 0; block < 6; ++block) fill(block, 90);
  EXPECT_EQ(move(false, {at(3, 8), at(2, 0)}), "");
  EXPECT_TRUE(holds(3, 10));
  EXPECT_TRUE(holds(2, 20));
  for (uint32_t block : {0, 1, 4, 5}) EXPECT_TRUE(holds(block, 90)) << block;
}

// In order: a slot may be given away and read before what was ordered earlier has ended.
TEST_P(HostCopierTest, CopiesAreDoneInOrder) {
  fill(0, 10);
  fill(1, 20);
  copier_->copy({.id = HostCopyId(1), .out = true, .blocks = {at(0, 4)}});
  copier_->copy({.id = HostCopyId(2), .out = false, .blocks = {at(2, 4)}});
  copier_->copy({.id = HostCopyId(3), .out = true, .blocks = {at(1, 4)}});
  copier_->copy({.id = HostCopyId(4), .out = false, .blocks = {at(3, 4)}});
  for (uint64_t id = 1; id <= 4; ++id) EXPECT_EQ(next().id, HostCopyId(id));
  EXPECT_TRUE(holds(2, 10));
  EXPECT_TRUE(holds(3, 20));
}

TEST_P(HostCopierTest, RandomTraffic) {
  const uint64_t seed = support::seed_or(3);
  SCOPED_TRACE(testing::Message() << "BATON_SEED=" << seed);
  Rng rng(seed);
  std::array<int, 9> slots{};
  for (uint32_t s = 0; s < slots.size(); ++s) {
    fill(0, slots[s] = static_cast<int>(s));
    ASSERT_EQ(move(true, {at(0, s)}), "");
  }
  for (int i = 0; i < 300; ++i) {
    const auto block = static_cast<uint32_t>(rng.below(6)), slot = static_cast<uint32_t>(rng.below(9));
    if (rng.below(2) == 0) {
      fill(block, slots[slot] = static_cast<int>(rng.below(200)));
      ASSERT_EQ(move(true, {at(block, slot)}), "");
    } else {
      ASSERT_EQ(move(false, {at(block, slot)}), "");
      ASSERT_TRUE(holds(block, slots[slot])) << i;
    }
  }
}

using FailingCopierTest = HostCopierTest;

TEST_P(FailingCopierTest, AfterAnErrorEverythingFails) {
  gpu_.pinnable = false;
  EXPECT_EQ(move(true, {at(0, 0)}), "no more pinned memory");
  gpu_.pinnable = true;
  EXPECT_EQ(move(true, {at(0, 0)}), "no more pinned memory");
}

INSTANTIATE_TEST_SUITE_P(Pools, FailingCopierTest, testing::Values(true));  // the CPU's copies do not fail
INSTANTIATE_TEST_SUITE_P(Pools, HostCopierTest, testing::Bool(),
                         [](const auto& where) { return where.param ? "FakeGpu" : "Cpu"; });

}  // namespace
}  // namespace baton::worker
