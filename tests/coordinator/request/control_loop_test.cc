#include "coordinator/request/control_loop.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <thread>

namespace baton::coordinator {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Workers that answer every message from a thread of their own, as gRPC does: accept, one token, finished,
// released.
class EchoStreams : public WorkerStreams {
 public:
  void set_loop(ControlLoop& loop) { loop_ = &loop; }
  void send(const WorkerRef& worker, CoordinatorMessage message) override {
    const auto* submit = std::get_if<Submit>(&message);
    if (submit == nullptr) return;
    std::lock_guard lock(mutex_);
    work_.emplace_back(worker, submit->request.id);
    ready_.notify_one();
  }
  void connect(const WorkerRef&, const std::string&) override {}
  void disconnect(const WorkerRef&) override {}
  Instant tick(Instant now) override { return now + milliseconds(50); }

  void answer(std::stop_token stop) {
    std::stop_callback wake(stop, [this] { ready_.notify_all(); });
    while (true) {
      std::unique_lock lock(mutex_);
      ready_.wait(lock, [&] { return stop.stop_requested() || !work_.empty(); });
      if (work_.empty()) return;
      const auto [worker, id] = work_.back();
      work_.pop_back();
      lock.unlock();
      post(worker, SubmitReply{id, Leg::kWhole, true});
      post(worker, StepReport{.sequences = {{.request = id,
                                             .leg = Leg::kWhole,
                                             .tokens = {{.token = 9}},
                                             .finish = FinishReason::kLength}}});
      post(worker, Released{id, Leg::kWhole});
    }
  }

 private:
  void post(const WorkerRef& worker, WorkerMessage message) {
    EXPECT_TRUE(loop_->post(WorkerMessageArrived{worker, std::move(message)}));
  }
  ControlLoop* loop_ = nullptr;
  std::mutex mutex_;
  std::condition_variable ready_;
  std::vector<std::pair<WorkerRef, RequestId>> work_;
};

class CountingSink : public RequestSink {
 public:
  void on_event(RequestId, RequestEvent event) override {
    const bool end = std::holds_alternative<Finished>(event) || std::holds_alternative<Failed>(event);
    if (std::holds_alternative<Failed>(event)) failed_.fetch_add(1);
    if (end) ended_.fetch_add(1);
  }
  int ended() const { return ended_; }
  int failed() const { return failed_; }

 private:
  std::atomic<int> ended_ = 0;
  std::atomic<int> failed_ = 0;
};

WorkerDescription any_worker() {
  WorkerDescription d;
  d.ref = {"a0", Incarnation(1)};
  d.control_address = "127.0.0.1:9";
  d.block_tokens = 16;
  d.context_tokens = 512;
  d.blocks_total = 100000;
  return d;
}

GenerateRequest small(RequestId id) {
  GenerateRequest r;
  r.id = id;
  r.prompt = {1, 2, 3};
  return r;
}

struct Process {
  explicit Process(ControlLoopOptions options = {}) : loop(options, core, streams, clock) {
    streams.set_loop(loop);
  }
  void worker_up() {
    EXPECT_TRUE(loop.post(JoinWorker{any_worker(), [](absl::StatusOr<uint64_t>) {}}));
    EXPECT_TRUE(loop.post(StreamOpened{any_worker()}));
  }
  SteadyClock clock;
  EchoStreams streams;
  ControlCore core{{}, streams};
  ControlLoop loop;
};

template <class Condition>
bool eventually(Condition condition) {
  for (int i = 0; i < 5000 && !condition(); ++i) std::this_thread::sleep_for(milliseconds(2));
  return condition();
}

TEST(ControlLoop, ManyThreadsSubmitAndCancel) {
  Process p;
  std::jthread control([&](std::stop_token stop) { p.loop.run(stop); });
  std::jthread echo([&](std::stop_token stop) { p.streams.answer(stop); });
  p.worker_up();
  const auto kept = std::make_shared<CountingSink>();
  const auto dropped = std::make_shared<CountingSink>();
  {
    std::vector<std::jthread> clients;
    for (int c = 0; c < 4; ++c) {
      clients.emplace_back([&, c] {
        for (int i = 0; i < 100; ++i) {
          const RequestId id = p.loop.next_id();
          p.loop.submit(small(id), c % 2 == 0 ? kept : dropped, QueueWait::kBounded);
          if (c % 2 == 1) p.loop.cancel(id);
          (void)p.loop.status();
        }
      });
    }
  }
  EXPECT_TRUE(eventually([&] { return kept->ended() == 200; }));
  EXPECT_EQ(kept->failed(), 0);
  // What is published is a little behind.
  EXPECT_TRUE(eventually([&] {
    const FlowCounters counters = p.loop.counters();
    return counters.submitted == 400 && counters.finished + counters.cancelled == 400;
  }));
  EXPECT_TRUE(eventually([&] {
    const auto s = p.loop.status();
    return s->can_generate && s->requests_in_flight == 0 && s->ledger_entries == 0;
  }));
}

TEST(ControlLoop, StoppingFailsWhatIsLeft) {
  Process p;  // no worker: everything waits
  const auto sink = std::make_shared<CountingSink>();
  std::jthread control([&](std::stop_token stop) { p.loop.run(stop); });
  for (int i = 0; i < 10; ++i) p.loop.submit(small(p.loop.next_id()), sink, QueueWait::kBounded);
  control.request_stop();
  control.join();
  EXPECT_EQ(sink->failed(), 10);
  p.loop.submit(small(p.loop.next_id()), sink, QueueWait::kBounded);  // after the end
  EXPECT_EQ(sink->failed(), 11);
  EXPECT_EQ(p.loop.status()->requests_in_flight, 0);
}

TEST(ControlLoop, AFullMailboxRefusesSubmitsAndKeepsCancels) {
  Process p(ControlLoopOptions{.mailbox = 4, .submits = 2});
  const auto sink = std::make_shared<CountingSink>();
  std::vector<RequestId> ids;
  for (int i = 0; i < 3; ++i) {
    ids.push_back(p.loop.next_id());
    p.loop.submit(small(ids.back()), sink, QueueWait::kBounded);
  }
  EXPECT_EQ(sink->failed(), 1);  // the third: two may wait
  p.loop.cancel(ids[2]);
  p.loop.cancel(ids[2]);  // the mailbox is full now
  p.loop.cancel(ids[0]);
  p.loop.cancel(ids[1]);
  EXPECT_FALSE(p.loop.post(StreamOpened{any_worker()}));
  p.loop.turn(p.clock.now());
  EXPECT_EQ(p.core.flow().counters().submitted, 2u);
  EXPECT_EQ(p.core.flow().counters().cancelled, 2u);
  p.loop.submit(small(p.loop.next_id()), sink, QueueWait::kBounded);  // room again
  EXPECT_EQ(sink->failed(), 1);
}

TEST(ControlLoop, TurnSaysWhenItIsDueAgain) {
  Process p;
  const Instant now{std::chrono::hours(1)};
  p.loop.turn(now);
  p.loop.submit(small(p.loop.next_id()), std::make_shared<CountingSink>(), QueueWait::kBounded);
  const Instant next = p.loop.turn(now);
  EXPECT_LE(next, now + milliseconds(50));  // its streams, or a status that is due
  EXPECT_EQ(p.core.next_deadline(), now + timers::kAdmissionQueue);
}

}  // namespace
}  // namespace baton::coordinator
