#include "worker/parallel/result_outbox.h"

#include <gtest/gtest.h>

#include <thread>

#include "base/clock.h"
#include "transport/collectives/thread_ranks.h"

namespace baton::worker {
namespace {

using namespace std::chrono_literals;

std::vector<std::byte> message(size_t bytes, int seed) {
  std::vector<std::byte> out(bytes);
  for (size_t i = 0; i < bytes; ++i) out[i] = static_cast<std::byte>((i * 7 + seed) % 251);
  return out;
}

class ResultOutboxTest : public ::testing::Test {
 protected:
  ResultOutboxTest() : ranks_(thread_ranks(2).value()), outbox_(*ranks_[1], clock_, 5s) {}
  void start() {
    sender_ = std::jthread([this](const std::stop_token& stop) { outbox_.run(stop); });
  }
  void expect(const std::vector<std::byte>& want) {
    std::vector<std::byte> got(want.size());
    ASSERT_TRUE(ranks_[0]->receive(1, got, clock_.now() + 5s).ok());
    EXPECT_TRUE(got == want);
  }
  SteadyClock clock_;
  std::vector<std::unique_ptr<Communicator>> ranks_;
  ResultOutbox outbox_;
  std::jthread sender_;
};

// Far more than the lane holds: post() returns although nobody listens, and all of it comes in order.
TEST_F(ResultOutboxTest, NobodyHasToListenYet) {
  start();
  const size_t sizes[] = {100, 6 << 20, 50, 3 << 20, 0, ResultOutbox::kAtOnce, ResultOutbox::kAtOnce + 1};
  for (int i = 0; i < 7; ++i) ASSERT_TRUE(outbox_.post(message(sizes[i], i)).ok());
  for (int i = 0; i < 7; ++i) expect(message(sizes[i], i));
}

// Without its thread: what is small goes at once.
TEST_F(ResultOutboxTest, SmallMessagesNeedNoThread) {
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(outbox_.post(message(1000, i)).ok());
  for (int i = 0; i < 4; ++i) expect(message(1000, i));
}

TEST_F(ResultOutboxTest, RankZeroIsGone) {
  start();
  ASSERT_TRUE(outbox_.post(message(6 << 20, 1)).ok());
  ranks_[0].reset();
  absl::Status status;
  while ((status = outbox_.post(message(1, 1))).ok()) std::this_thread::sleep_for(1ms);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
}

// Small and large ones, from both threads, while rank 0 takes them.
TEST_F(ResultOutboxTest, ManyMessagesStayInOrder) {
  start();
  std::jthread poster([this] {
    for (int i = 0; i < 200; ++i) EXPECT_TRUE(outbox_.post(message(i % 3 == 0 ? 40'000 : 64, i)).ok());
  });
  for (int i = 0; i < 200; ++i) expect(message(i % 3 == 0 ? 40'000 : 64, i));
}

}  // namespace
}  // namespace baton::worker
