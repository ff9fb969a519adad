#include "worker/engine/engine_loop.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <ctime>
#include <functional>
#include <thread>

#include "base/timers.h"
#include "tests/support/soon.h"
#include "tests/worker/engine/engine_fixture.h"

namespace baton::worker {
namespace {

using namespace std::chrono_literals;

// Breaks when told to.
class Breakable final : public StepExecutor {
 public:
  explicit Breakable(StepExecutor& inner) : inner_(inner) {}
  absl::Status start(const StepPlan& plan, const LayerListener& on_layer, StepResult& result) override {
    if (--steps_left == 0) return absl::InternalError("device lost");
    if (inside) inside();
    return inner_.start(plan, on_layer, result);
  }
  absl::Status finish(const StepPlan& plan, const LayerListener& on_layer, StepResult& result) override {
    return inner_.finish(plan, on_layer, result);
  }
  int steps_left = -1;
  std::function<void()> inside;  // of each step

 private:
  StepExecutor& inner_;
};

class EngineLoopTest : public EngineFixture {
 protected:
  EngineLoopTest()
      : fabric_({}, manual_),
        pool_(2, 64, kBlock),
        model_(pool_, {}),
        executor_(model_),
        engine_(defaults().engine, fabric_.join({"w", Incarnation(1)}, pool_, [](const KvEvent&) {})) {}
  EngineLoop make_loop(const Clock& clock) {
    return EngineLoop({engine_, executor_, mailbox_, clock}, [this](std::vector<WorkerMessage>& messages) {
      for (auto& m : messages) {
        if (const auto* report = std::get_if<StepReport>(&m))
          for (const auto& s : report->sequences) take(s);
        if (std::holds_alternative<Released>(m)) ++released_;
        if (const auto* reply = std::get_if<SubmitReply>(&m)) accepted_ += reply->accepted;
      }
    });
  }
  void take(const SequenceTokens& s) {
    for (const auto& t : s.tokens) tokens_.push_back(t.token);
    if (!s.error.empty()) error_ = s.error;
  }
  void post(EngineCommand command) { ASSERT_TRUE(mailbox_.post(std::move(command))); }

  ManualClock manual_;
  support::FakeKvFabric fabric_;
  support::KvHashPool pool_;
  support::KvHashExecutor model_;
  Breakable executor_;
  Engine engine_;
  EngineMailbox mailbox_{1000};
  std::vector<TokenId> tokens_;
  std::string error_;
  std::atomic<int> released_ = 0;
  std::atomic<int> accepted_ = 0;
};

TEST_F(EngineLoopTest, AnIdleLoopTakesMemoryForTheBlocksThatComeNext) {
  const kernels::KvGeometry geometry{
      .layers = 2, .kv_heads = 4, .head_dim = 32, .block_tokens = 16, .blocks = 64};
  const size_t bytes = geometry.pool_bytes();
  void* base = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(base, MAP_FAILED);
  const SteadyClock clock;
  PagesAhead ahead({static_cast<std::byte*>(base), bytes}, geometry, bytes);
  EngineLoop loop({engine_, executor_, mailbox_, clock, &ahead}, [](std::vector<WorkerMessage>&) {});
  std::thread thread([&] { EXPECT_TRUE(loop.run({}).ok()); });
  const auto all_there = [&] {
    std::vector<unsigned char> pages(bytes / static_cast<size_t>(::sysconf(_SC_PAGESIZE)));
    EXPECT_EQ(::mincore(base, bytes, pages.data()), 0);
    return std::ranges::all_of(pages, [](unsigned char p) { return (p & 1) != 0; });
  };
  const Instant end = clock.now() + 20s;
  while (!all_there() && clock.now() < end) std::this_thread::sleep_for(1ms);
  EXPECT_TRUE(all_there());
  mailbox_.close();
  thread.join();
  ::munmap(base, bytes);
}

TEST_F(EngineLoopTest, OneTurnDrainsPlansRunsAndPublishes) {
  EngineLoop loop = make_loop(manual_);
  const auto idle = loop.do_work(manual_.now());
  ASSERT_TRUE(idle.ok());
  EXPECT_FALSE(*idle);
  const auto r = request(1, 10, 4);
  post(SetHashKey{{1, 2}});
  post(CoordinatorMessage(Submit{.request = r}));
  for (int i = 0; i < 4; ++i) {
    EXPECT_TRUE(*loop.do_work(manual_.now()));
    EXPECT_EQ(tokens_.size(), static_cast<size_t>(i + 1));
  }
  EXPECT_FALSE(*loop.do_work(manual_.now()));
  EXPECT_EQ(tokens_, support::kvhash_reference(r, 2, {}));
  EXPECT_EQ(released_, 1);
  EXPECT_EQ(loop.status().counters.steps, 4u);
  EXPECT_TRUE(loop.status().idle);
}

TEST_F(EngineLoopTest, ABrokenExecutorEndsTheLoopAndEveryRequest) {
  EngineLoop loop = make_loop(manual_);
  executor_.steps_left = 3;
  post(SetHashKey{{1, 2}});
  post(CoordinatorMessage(Submit{.request = request(1, 10, 40)}));
  EXPECT_TRUE(loop.do_work(manual_.now()).ok());
  EXPECT_TRUE(loop.do_work(manual_.now()).ok());
  const auto broken = loop.do_work(manual_.now());
  EXPECT_EQ(broken.status().message(), "device lost");
  EXPECT_EQ(error_, "device lost");
  EXPECT_EQ(released_, 1);
  EXPECT_TRUE(engine_.idle());
}

// What a worker's /live and /ready ask: from inside a step that does not end, and when there is none.
TEST_F(EngineLoopTest, AStepThatDoesNotEndIsOverdue) {
  EngineLoop loop = make_loop(manual_);
  const auto overdue_in = [&](Duration later) {
    return step_overdue(loop.status(), manual_.now() + later, timers::kRequestTotal);
  };
  int asked = 0;
  executor_.inside = [&] {
    ++asked;
    EXPECT_FALSE(overdue_in(timers::kRequestTotal));
    EXPECT_TRUE(overdue_in(timers::kRequestTotal + 1ms));
  };
  EXPECT_FALSE(overdue_in(1h));
  post(SetHashKey{{1, 2}});
  post(CoordinatorMessage(Submit{.request = request(1, 10, 2)}));
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(loop.do_work(manual_.now()).ok());
  EXPECT_EQ(asked, 2);
  EXPECT_FALSE(overdue_in(1h));
}

TEST_F(EngineLoopTest, DrainingAndGivingUpAreCommands) {
  EngineLoop loop = make_loop(manual_);
  post(SetHashKey{{1, 2}});
  post(CoordinatorMessage(Submit{.request = request(1, 10, 40)}));
  post(SetDraining{true});
  post(CoordinatorMessage(Submit{.request = request(2, 10, 40)}));
  EXPECT_TRUE(*loop.do_work(manual_.now()));
  EXPECT_EQ(accepted_, 1);
  EXPECT_TRUE(loop.status().draining);
  post(GiveUp{"a rank is gone"});
  EXPECT_TRUE(*loop.do_work(manual_.now()));
  EXPECT_EQ(error_, "a rank is gone");
  EXPECT_TRUE(engine_.idle());
}

// The thread itself: wakes for a message and for a deadline, sleeps otherwise, ends when the mailbox closes.
TEST_F(EngineLoopTest, AThreadThatSleepsWhenIdle) {
  SteadyClock clock;
  EngineLoop loop = make_loop(clock);
  absl::Status ended = absl::UnknownError("still running");
  std::jthread thread([&](const std::stop_token& stop) { ended = loop.run(stop); });
  clockid_t its_clock{};
  ASSERT_EQ(pthread_getcpuclockid(thread.native_handle(), &its_clock), 0);
  const auto used = [its_clock] {  // CPU time: a loaded machine adds nothing to it
    timespec t{};
    clock_gettime(its_clock, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  };
  post(SetHashKey{{1, 2}});
  auto r = request(1, 10, 30);
  post(CoordinatorMessage(Submit{.request = r}));
  EXPECT_TRUE(support::soon([&] { return released_ == 1; }));
  // A decode leg whose peer sends nothing ends by the request's deadline, without traffic.
  support::KvHashPool far_pool(2, 64, kBlock);
  fabric_.join({"far", Incarnation(1)}, far_pool, [](const KvEvent&) {});
  auto waits = request(2, 250 - 52, 2);
  waits.time_left = 50ms;
  post(CoordinatorMessage(Submit{.request = waits,
                                 .leg = Leg::kDecode,
                                 .transfer = TransferId(1),
                                 .peer = WorkerRef{"far", Incarnation(1)}}));
  EXPECT_TRUE(support::soon([&] { return loop.status().counters.deadline_expired == 1; }));
  const uint64_t steps = loop.status().counters.steps;
  const double before = used();
  std::this_thread::sleep_for(300ms);
  EXPECT_LT(used() - before, 0.05) << "an idle engine burns no CPU";
  EXPECT_EQ(loop.status().counters.steps, steps);
  mailbox_.close();
  thread.join();
  EXPECT_TRUE(ended.ok()) << ended;
  EXPECT_EQ(tokens_, support::kvhash_reference(r, 2, {}));
  EXPECT_EQ(error_, "deadline exceeded");
}

}  // namespace
}  // namespace baton::worker
