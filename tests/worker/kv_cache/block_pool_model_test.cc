#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <set>

#include "base/rng.h"
#include "tests/support/seed.h"
#include "worker/kv_cache/block_pool.h"

// 100,000 random operations on a pool and on a model of it that keeps, for each block, the set of its holders
// and derives everything else from that.
namespace baton::worker {
namespace {

struct ModelBlock {
  int owners = 0;
  std::set<uint64_t> leases;
  bool valid = false;
  bool kept = false;
  bool copying = false;
  uint64_t incoming = 0;  // transfer that lands here
  bool aborted = false;
  uint32_t generation = 0;

  BlockState state() const {
    if (incoming != 0) return aborted ? BlockState::kQuarantine : BlockState::kInflight;
    if (valid && (owners > 0 || !leases.empty() || kept || copying)) return BlockState::kValid;
    return owners > 0 || !leases.empty() || copying ? BlockState::kReserved : BlockState::kFree;
  }
};

class Model {
 public:
  explicit Model(uint64_t seed, int blocks)
      : pool_(blocks), blocks_(static_cast<size_t>(blocks)), rng_(seed) {}

  void step() {
    switch (rng_.below(14)) {
      case 0:
      case 1:
        return reserve();
      case 2:
        return each_owned([&](BlockId id, ModelBlock& m) {
          if (m.state() != BlockState::kReserved || m.copying) return;
          pool_.make_valid(id);
          m.valid = true;
        });
      case 3:
        return each_owned([&](BlockId id, ModelBlock& m) {
          if (m.state() != BlockState::kValid) return;
          pool_.keep_idle(id);
          m.kept = true;
        });
      case 4:
        return add_owner();
      case 5:
      case 6:
        return each_owned([&](BlockId id, ModelBlock& m) {
          pool_.drop_owner(id);
          --m.owners;
          forget_if_free(m);
        });
      case 7:
        return begin_landing();
      case 8:
        return end_landing();
      case 9:
        return lease();
      case 10:
        return unlease();
      case 12:
        return begin_copy();
      case 13:
        return end_copy();
      case 11:
        return release_idle();
    }
  }

  void compare() const {
    std::map<BlockState, int64_t> counts;
    for (size_t i = 0; i < blocks_.size(); ++i) {
      const BlockId id(static_cast<uint32_t>(i));
      const ModelBlock& m = blocks_[i];
      ++counts[m.state()];
      ASSERT_EQ(pool_.state(id), m.state()) << to_string(id);
      ASSERT_EQ(pool_.owners(id), static_cast<uint32_t>(m.owners));
      ASSERT_EQ(pool_.leases(id), m.leases.size());
      ASSERT_EQ(pool_.generation(id), m.generation);
      ASSERT_EQ(pool_.copying(id), m.copying);
    }
    for (int s = 0; s < kBlockStates; ++s)
      ASSERT_EQ(pool_.count(static_cast<BlockState>(s)), counts[static_cast<BlockState>(s)]);
    pool_.check_invariants();
  }

  // Everybody leaves; all blocks must come back.
  void finish() {
    for (size_t i = 0; i < blocks_.size(); ++i)
      for (; blocks_[i].owners > 0; --blocks_[i].owners) pool_.drop_owner(BlockId(static_cast<uint32_t>(i)));
    for (const uint64_t id : landings_) {
      if (!aborted(id)) pool_.abort(TransferId(id));
      pool_.drained(TransferId(id));
    }
    for (uint64_t id : leases_) pool_.unlease(TransferId(id));
    for (size_t i = 0; i < blocks_.size(); ++i)
      if (blocks_[i].copying) pool_.end_copy(BlockId(static_cast<uint32_t>(i)));
    for (size_t i = 0; i < blocks_.size(); ++i)
      if (pool_.idle(BlockId(static_cast<uint32_t>(i))))
        pool_.release_idle(BlockId(static_cast<uint32_t>(i)));
    ASSERT_EQ(pool_.free(), pool_.size());
    pool_.check_invariants();
  }

 private:
  size_t any() { return rng_.below(blocks_.size()); }
  bool aborted(uint64_t transfer) const {
    for (const ModelBlock& m : blocks_)
      if (m.incoming == transfer) return m.aborted;
    return false;
  }
  static void forget_if_free(ModelBlock& m) {
    if (m.state() != BlockState::kFree) return;
    m.valid = m.kept = false;
  }
  template <class F>
  void each_owned(F f) {  // some owned blocks
    const size_t from = any();
    const size_t count = 1 + rng_.below(6);
    for (size_t i = from; i < std::min(from + count, blocks_.size()); ++i)
      if (blocks_[i].owners > 0) f(BlockId(static_cast<uint32_t>(i)), blocks_[i]);
  }
  void reserve() {
    const auto count = static_cast<int32_t>(rng_.below(9));
    const int64_t before = pool_.free();
    std::vector<BlockId> out;
    const bool ok = rng_.below(2) == 0 ? pool_.reserve(count, out)
                                       : pool_.reserve(count, BlockId(static_cast<uint32_t>(any())), out);
    ASSERT_EQ(ok, count <= before);
    ASSERT_EQ(out.size(), ok ? static_cast<size_t>(count) : 0u);
    for (BlockId id : out) {
      ModelBlock& m = blocks_[id.value()];
      ASSERT_EQ(m.state(), BlockState::kFree) << "given away while held";
      m = ModelBlock{.owners = 1, .generation = m.generation + 1};
    }
  }
  void add_owner() {
    const size_t i = any();
    if (blocks_[i].state() != BlockState::kValid) return;
    pool_.add_owner(BlockId(static_cast<uint32_t>(i)));
    ++blocks_[i].owners;
  }
  void begin_landing() {
    std::vector<BlockId> blocks;
    each_owned([&](BlockId id, ModelBlock& m) {
      if (m.state() == BlockState::kReserved && m.owners == 1 && m.leases.empty() && !m.copying)
        blocks.push_back(id);
    });
    const uint64_t id = next_++;
    pool_.begin_landing(TransferId(id), blocks);
    for (BlockId block : blocks) blocks_[block.value()].incoming = id;
    if (blocks.empty())
      pool_.landed(TransferId(id));
    else
      landings_.insert(id);
  }
  void end_landing() {
    if (landings_.empty()) return;
    auto it = landings_.begin();
    std::advance(it, static_cast<long>(rng_.below(landings_.size())));
    const uint64_t id = *it;
    int owned = 0;
    int total = 0;
    for (const ModelBlock& m : blocks_) {
      owned += m.incoming == id && m.owners > 0;
      total += m.incoming == id;
    }
    if (aborted(id)) {
      if (owned == 0) drain(it);
    } else if (owned == total && rng_.below(2) == 0) {
      pool_.landed(TransferId(id));
      for (ModelBlock& m : blocks_) {
        if (m.incoming != id) continue;
        m.incoming = 0;
        m.valid = true;
      }
      landings_.erase(it);
    } else {
      pool_.abort(TransferId(id));
      for (ModelBlock& m : blocks_) m.aborted |= m.incoming == id;
    }
  }
  void drain(std::set<uint64_t>::iterator it) {
    pool_.drained(TransferId(*it));
    clear(*it);
    landings_.erase(it);
  }
  void clear(uint64_t id) {
    for (ModelBlock& m : blocks_)
      if (m.incoming == id) m = ModelBlock{.generation = m.generation};
  }
  void lease() {
    std::vector<BlockId> blocks;
    each_owned([&](BlockId id, ModelBlock& m) {
      if (m.incoming == 0) blocks.push_back(id);
    });
    const uint64_t id = next_++;
    pool_.lease(TransferId(id), blocks);
    for (BlockId block : blocks) blocks_[block.value()].leases.insert(id);
    leases_.insert(id);
  }
  void unlease() {
    if (leases_.size() < 3) return;
    const uint64_t id = *leases_.begin();
    pool_.unlease(TransferId(id));
    leases_.erase(id);
    for (ModelBlock& m : blocks_)
      if (m.leases.erase(id) > 0) forget_if_free(m);
  }
  void release_idle() {
    const size_t i = any();
    const BlockId id(static_cast<uint32_t>(i));
    ModelBlock& m = blocks_[i];
    const bool idle = m.state() == BlockState::kValid && m.kept && m.owners == 0 && m.leases.empty();
    ASSERT_EQ(pool_.idle(id), idle);
    if (!idle) return;
    pool_.release_idle(id);
    m.kept = false;
    forget_if_free(m);
  }
  void begin_copy() {
    const size_t i = any();
    ModelBlock& m = blocks_[i];
    const bool held = m.owners > 0 || !m.leases.empty() || m.kept;
    if (m.incoming != 0 || m.copying || !held) return;
    pool_.begin_copy(BlockId(static_cast<uint32_t>(i)));
    m.copying = true;
  }
  void end_copy() {
    const size_t i = any();
    if (!blocks_[i].copying) return;
    pool_.end_copy(BlockId(static_cast<uint32_t>(i)));
    blocks_[i].copying = false;
    forget_if_free(blocks_[i]);
  }

  BlockPool pool_;
  std::vector<ModelBlock> blocks_;
  Rng rng_;
  uint64_t next_ = 1;
  std::set<uint64_t> landings_;
  std::set<uint64_t> leases_;
};

TEST(BlockPoolModel, RandomOperations) {
  const uint64_t seed = support::seed_or(20240611);
  for (uint64_t round = 0; round < 10; ++round) {
    SCOPED_TRACE(testing::Message() << "BATON_SEED=" << seed + round);
    Model model(seed + round, round % 2 == 0 ? 40 : 130);
    for (int i = 0; i < 10'000; ++i) {
      model.step();
      if (i % 16 == 0) model.compare();
      if (testing::Test::HasFatalFailure()) return;
    }
    model.finish();
  }
}

}  // namespace
}  // namespace baton::worker
