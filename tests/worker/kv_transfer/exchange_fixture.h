#pragma once

#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"
#include "tests/transport/data/plane_fixture.h"
#include "tests/worker/kv_transfer/model_with.h"
#include "worker/kv_transfer/kv_exchange_agent.h"

namespace baton::worker {

inline kernels::KvGeometry small_geometry(int64_t blocks = 96) {
  return {
      .layers = 3, .kv_heads = 2, .head_dim = 16, .block_tokens = 8, .blocks = blocks};  // pieces of 1 KiB
}

// Which rank of which worker a side is.
struct RankOf {
  SplitModel model;
  ParallelShape shape{};
  int rank = 0;
  std::string layout = "kv-head-test";
  bool checksum = true;
};

class ExchangeSide;

// Host memory of a rank; copies are done at once.
class TestHost final : public HostCopies {
 public:
  static constexpr int64_t kSlots = 4;
  explicit TestHost(ExchangeSide& side) : side_(side) {}
  void copy(HostCopy copy) override;

  std::map<HostSlot, std::string> slots;
  std::string error;  // with which copies end from now on

 private:
  ExchangeSide& side_;
};

// One rank's data plane and agent, with every event written down. A worker of one rank starts at once, those
// of a group when all addresses are known.
class ExchangeSide {
 public:
  ExchangeSide(transport::Fabric fabric, transport::LoopbackHub& hub, const std::string& name,
               uint64_t incarnation = 1, kernels::KvGeometry geometry = small_geometry(),
               bool checksum = true)
      : ExchangeSide(fabric, hub, {name, Incarnation(incarnation)}, geometry,
                     {.model = model_with(geometry), .checksum = checksum}) {
    start({});
  }
  ExchangeSide(transport::Fabric fabric, transport::LoopbackHub& hub, const WorkerRef& worker,
               kernels::KvGeometry geometry, const RankOf& place)
      : geometry(geometry), worker(worker), ref(rank_ref(worker, place.rank)), place_(place) {
    auto options =
        transport::plane_options(ref.name, worker.incarnation.value(), transport::lanes_of(fabric));
    // Of the whole model, so the same whatever part this is.
    kernels::KvGeometry whole = geometry;
    whole.layers = place.model.layers;
    whole.kv_heads = place.model.kv_heads;
    options.identity.kv_layout_hash = kv_layout_hash(whole, "test");
    options.pool_bytes = geometry.pool_bytes();
    options.checksum = place.checksum;
    options.callers = transport::Callers::kNamed;
    plane = transport::make_plane(fabric, hub, options);
  }
  void start(std::vector<std::string> addresses) {
    auto made =
        KvExchangeAgent::create(*plane, {.geometry = geometry,
                                         .layout = place_.layout,
                                         .model = place_.model,
                                         .shape = place_.shape,
                                         .rank = place_.rank,
                                         .events = [this](KvEvent event) { take(std::move(event)); },
                                         .peers = [this](const PeerReport& r) { reports.push_back(r); },
                                         .word_worth = word_worth,
                                         .worker = worker,
                                         .key = {1, 2},
                                         .addresses = std::move(addresses),
                                         .host = &host,
                                         .host_slots = TestHost::kSlots,
                                         .copied = [this](const HostCopied& end) { copied.push_back(end); },
                                         .lost = [this](const std::string& why) { lost.push_back(why); },
                                         .on_phase = on_phase});
    EXPECT_TRUE(made.ok()) << made.status();
    agent = *std::move(made);
  }

  WorkerDescription description() const { return {.ref = ref, .data_address = plane->address()}; }
  std::byte* piece(int layer, BlockId block) {
    return plane->pool().data() + geometry.piece_offset(layer, block);
  }
  void fill(BlockId block, uint64_t seed) {
    for (int layer = 0; layer < geometry.layers; ++layer) fill(layer, block, seed);
  }
  void fill(int layer, BlockId block, uint64_t seed) {
    Rng rng(seed * 1000 + static_cast<uint64_t>(layer));
    for (size_t at = 0; at < geometry.piece_bytes(); at += 8) {
      const uint64_t word = rng.next();
      std::memcpy(piece(layer, block) + at, &word, 8);
    }
  }
  bool holds(BlockId block, uint64_t seed) {
    for (int layer = 0; layer < geometry.layers; ++layer) {
      Rng rng(seed * 1000 + static_cast<uint64_t>(layer));
      for (size_t at = 0; at < geometry.piece_bytes(); at += 8) {
        const uint64_t word = rng.next();
        if (std::memcmp(piece(layer, block) + at, &word, 8) != 0) return false;
      }
    }
    return true;
  }
  bool landed(TransferId t) const { return landings.contains(t); }
  bool drained(TransferId t) const { return drains.contains(t); }
  const std::string& error(TransferId t) const { return drains.at(t).error; }

  const kernels::KvGeometry geometry;
  const WorkerRef worker;
  const WorkerRef ref;  // of this rank
  std::unique_ptr<transport::DataPlane> plane;
  std::unique_ptr<KvExchangeAgent> agent;
  std::map<TransferId, KvLanded> landings;
  std::map<TransferId, KvFailed> failures;
  std::map<TransferId, KvDrained> drains;
  std::vector<PeerReport> reports;
  std::vector<std::string> lost;
  std::vector<HostCopied> copied;
  TestHost host{*this};
  Duration word_worth{};  // for the next start(), like on_phase
  std::function<void(KvPhase, TransferId)> on_phase;

 private:
  const RankOf place_;

  // Exactly one end per transfer, and KvFailed only before KvDrained.
  void take(KvEvent event) {
    if (auto* l = std::get_if<KvLanded>(&event)) {
      EXPECT_FALSE(landed(l->transfer) || drained(l->transfer) || failures.contains(l->transfer));
      landings[l->transfer] = *l;
    } else if (auto* f = std::get_if<KvFailed>(&event)) {
      EXPECT_FALSE(landed(f->transfer) || drained(f->transfer) || failures.contains(f->transfer));
      failures[f->transfer] = *f;
    } else {
      const auto& d = std::get<KvDrained>(event);
      EXPECT_FALSE(landed(d.transfer) || drained(d.transfer));
      drains[d.transfer] = d;
    }
  }
};

inline void TestHost::copy(HostCopy copy) {
  const size_t bytes = side_.geometry.piece_bytes();
  for (const auto& [block, slot] : copy.blocks) {
    std::string& memory = slots[slot];
    memory.resize(bytes * static_cast<size_t>(side_.geometry.layers));
    for (int layer = 0; layer < side_.geometry.layers; ++layer) {
      char* const here = memory.data() + static_cast<size_t>(layer) * bytes;
      std::byte* const pool = side_.piece(layer, block);
      if (copy.out) std::memcpy(here, pool, bytes);
      if (!copy.out) std::memcpy(pool, here, bytes);
    }
  }
  side_.agent->copied({.id = copy.id, .error = error});
}

// A prefill side, a decode side, and a clock that moves when told.
class ExchangePair {
 public:
  explicit ExchangePair(transport::Fabric fabric, int64_t blocks = 96, bool checksum = true)
      : prefill(fabric, hub, "prefill", 1, small_geometry(blocks), checksum),
        decode(fabric, hub, "decode", 1, small_geometry(blocks), checksum) {}

  void step() {
    prefill.agent->do_work(now);
    decode.agent->do_work(now);
  }
  bool until(const std::function<bool()>& done) {
    return transport::drive([&] { step(); }, done);
  }
  void settle(int steps = 50) {
    for (int i = 0; i < steps; ++i) step();
  }
  // Both are asked to, as the coordinator does.
  bool join() {
    EXPECT_TRUE(decode.agent->connect(prefill.description()));
    EXPECT_TRUE(prefill.agent->connect(decode.description()));
    return until([&] {
      return !decode.reports.empty() && decode.reports.back().connected && !prefill.reports.empty() &&
             prefill.reports.back().connected;
    });
  }

  transport::LoopbackHub hub;
  Instant now{std::chrono::seconds(5000)};
  ExchangeSide prefill;
  ExchangeSide decode;
};

}  // namespace baton::worker
