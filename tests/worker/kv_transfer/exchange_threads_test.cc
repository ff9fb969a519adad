// Two workers as they run in production: an engine thread and a progress thread each. For ThreadSanitizer.
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/clock.h"
#include "tests/transport/data/plane_fixture.h"
#include "tests/worker/kv_transfer/model_with.h"
#include "worker/kv_transfer/kv_exchange_agent.h"

namespace baton::worker {
namespace {

using transport::Fabric;

kernels::KvGeometry geometry() {
  return {.layers = 4, .kv_heads = 2, .head_dim = 16, .block_tokens = 8, .blocks = 64};
}

class ThreadedWorker {
 public:
  ThreadedWorker(Fabric fabric, transport::LoopbackHub& hub, const std::string& name)
      : ref{name, Incarnation(1)} {
    auto options = transport::plane_options(name, 1, transport::lanes_of(fabric));
    options.pool_bytes = geometry().pool_bytes();
    options.callers = transport::Callers::kNamed;
    plane = transport::make_plane(fabric, hub, options);
    agent = *KvExchangeAgent::create(*plane, {.geometry = geometry(),
                                              .layout = "kv-head-test",
                                              .model = model_with(geometry()),
                                              .events = [this](KvEvent event) { on_event(event); },
                                              .peers = [this](const PeerReport& r) { on_peer(r); }});
    progress_ = std::jthread([this](std::stop_token stop) {
      const SteadyClock clock;
      while (!stop.stop_requested())
        if (agent->do_work(clock.now()) == 0) agent->wait(clock.now());
    });
  }
  ~ThreadedWorker() {
    progress_.request_stop();
    agent->wake();
  }
  bool wait_for(const std::function<bool(ThreadedWorker&)>& done) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, std::chrono::seconds(20), [&] { return done(*this); });
  }

  const WorkerRef ref;
  std::unique_ptr<transport::DataPlane> plane;
  std::unique_ptr<KvExchangeAgent> agent;
  std::mutex mutex;
  std::condition_variable changed;
  int landed = 0, drained = 0;  // guarded by mutex
  bool connected = false;

 private:
  void on_event(const KvEvent& event) {
    std::lock_guard lock(mutex);
    if (std::holds_alternative<KvLanded>(event)) ++landed;
    if (std::holds_alternative<KvDrained>(event)) ++drained;
    changed.notify_all();
  }
  void on_peer(const PeerReport& report) {
    std::lock_guard lock(mutex);
    connected = report.connected;
    changed.notify_all();
  }
  std::jthread progress_;
};

class ExchangeThreadsTest : public testing::TestWithParam<Fabric> {};
INSTANTIATE_TEST_SUITE_P(Fabrics, ExchangeThreadsTest,
                         testing::Values(Fabric::kLoopbackStream, Fabric::kLoopbackLocal, Fabric::kUcxAm,
                                         Fabric::kUcxLocal, Fabric::kSocket, Fabric::kSocketLocal,
                                         Fabric::kTls, Fabric::kGet),
                         [](const auto& info) { return transport::fabric_name(info.param); });

TEST_P(ExchangeThreadsTest, ManyTransfersBothWays) {
  transport::LoopbackHub hub;
  ThreadedWorker a(GetParam(), hub, "a"), b(GetParam(), hub, "b");
  ASSERT_TRUE(a.agent->connect({.ref = b.ref, .data_address = b.plane->address()}));
  ASSERT_TRUE(b.agent->connect({.ref = a.ref, .data_address = a.plane->address()}));
  ASSERT_TRUE(a.wait_for([](auto& w) { return w.connected; }));
  ASSERT_TRUE(b.wait_for([](auto& w) { return w.connected; }));
  constexpr int kTransfers = 100;
  // Each engine thread sends kTransfers prompts and takes as many; every fifth is cancelled by the sender.
  const auto engine = [](ThreadedWorker& me, const WorkerRef& other, uint64_t mine, uint64_t theirs) {
    for (int i = 0; i < kTransfers; ++i) {
      const uint32_t block = static_cast<uint32_t>(i) % 16;
      const std::vector<BlockId> from = {BlockId(2 * block), BlockId(2 * block + 1)};
      const std::vector<BlockId> to = {BlockId(32 + 2 * block), BlockId(33 + 2 * block)};
      const TransferId out(mine + static_cast<uint64_t>(i)), in(theirs + static_cast<uint64_t>(i));
      ASSERT_TRUE(
          me.agent
              ->expect(
                  {.transfer = in, .source = other, .prompt_tokens = 15, .blocks = to, .generations = {1, 2}})
              .ok());
      ASSERT_TRUE(
          me.agent->send({.transfer = out, .destination = other, .prompt_tokens = 15, .blocks = from}).ok());
      for (int layer = 0; layer < geometry().layers; ++layer) me.agent->layer_ready(out, layer, 15, 15);
      i % 5 == 4 ? me.agent->cancel(out) : me.agent->finish(out, {.token = i}, FinishReason::kNone);
      ASSERT_TRUE(me.wait_for([i](auto& w) { return w.landed + w.drained >= 2 * (i - 6); }));
      EXPECT_GE(me.agent->open_transfers(), 0);
    }
  };
  std::jthread engine_a([&] { engine(a, b.ref, 1, 10'001); });
  std::jthread engine_b([&] { engine(b, a.ref, 10'001, 1); });
  engine_a.join();
  engine_b.join();
  // Of each worker: kTransfers ends as source, kTransfers as destination, a fifth of those failed.
  for (ThreadedWorker* w : {&a, &b}) {
    ASSERT_TRUE(w->wait_for([](auto& each) { return each.landed + each.drained == 2 * kTransfers; }));
    EXPECT_EQ(w->landed, kTransfers * 4 / 5);
    EXPECT_EQ(w->agent->open_transfers(), 0);
  }
}

}  // namespace
}  // namespace baton::worker
