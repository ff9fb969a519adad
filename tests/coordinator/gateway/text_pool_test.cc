// Who waits behind whom: long texts behind each other, short ones never behind a long one.
#include "coordinator/gateway/text_pool.h"

#include <gtest/gtest.h>

#include <chrono>
#include <deque>
#include <functional>
#include <future>
#include <thread>
#include <vector>

namespace baton::coordinator {
namespace {

using std::chrono::seconds;
constexpr size_t kLong = TextPool::kLongText + 1;
constexpr size_t kShort = TextPool::kLongText;

// A piece of work that says when it runs and goes on when it is told to.
class Work {
 public:
  std::function<void()> function() {
    return [this] {
      started_.set_value();
      (void)go_.get_future().wait_for(seconds(60));
    };
  }
  bool started(seconds within = seconds(60)) {
    if (!seen_) seen_ = future_.wait_for(within) == std::future_status::ready;
    return seen_;
  }
  void go_on() { go_.set_value(); }

 private:
  std::promise<void> started_, go_;
  std::future<void> future_ = started_.get_future();
  bool seen_ = false;
};

class TextPoolTest : public ::testing::Test {
 protected:
  void start(int threads) {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { pool_.run(); });
    // All are there: so many short works run at a time.
    for (int i = 0; i < threads; ++i) ASSERT_TRUE(pool_.submit(kShort, work().function()));
    for (Work& work : works_) ASSERT_TRUE(work.started());
    for (Work& work : works_) work.go_on();
  }
  Work& work() { return works_.emplace_back(); }
  ~TextPoolTest() override { pool_.close(); }

  std::deque<Work> works_;  // they outlive the threads
  TextPool pool_{8};
  std::vector<std::jthread> threads_;
};

TEST_F(TextPoolTest, ShortTextsDoNotWaitBehindLongOnes) {
  start(2);
  Work &first_long = work(), &second_long = work(), &short_text = work();
  ASSERT_TRUE(pool_.submit(kLong, first_long.function()));
  ASSERT_TRUE(first_long.started());
  ASSERT_TRUE(pool_.submit(kLong, second_long.function()));
  ASSERT_TRUE(pool_.submit(kShort, short_text.function()));
  ASSERT_TRUE(short_text.started());
  short_text.go_on();
  EXPECT_FALSE(second_long.started(seconds(0))) << "one thread is left for short texts";
  EXPECT_EQ(pool_.waiting(), 1u);
  first_long.go_on();
  EXPECT_TRUE(second_long.started());
  second_long.go_on();
}

TEST_F(TextPoolTest, OfThreeThreadsTwoTakeLongTexts) {
  start(3);
  Work &first = work(), &second = work(), &third = work();
  for (Work* long_text : {&first, &second, &third}) ASSERT_TRUE(pool_.submit(kLong, long_text->function()));
  ASSERT_TRUE(first.started());
  ASSERT_TRUE(second.started());
  EXPECT_FALSE(third.started(seconds(0)));
  second.go_on();
  EXPECT_TRUE(third.started());
  first.go_on();
  third.go_on();
}

TEST_F(TextPoolTest, OneThreadDoesEverything) {
  start(1);
  Work &a_long = work(), &a_short = work();
  ASSERT_TRUE(pool_.submit(kLong, a_long.function()));
  ASSERT_TRUE(a_long.started());
  ASSERT_TRUE(pool_.submit(kShort, a_short.function()));
  a_long.go_on();
  EXPECT_TRUE(a_short.started());
  a_short.go_on();
}

TEST_F(TextPoolTest, FullOrClosedItRefusesBothKinds) {
  for (size_t i = 0; i < 8; ++i) EXPECT_TRUE(pool_.submit(i % 2 ? kLong : kShort, [] {}));
  EXPECT_FALSE(pool_.submit(kLong, [] {}));
  EXPECT_FALSE(pool_.submit(kShort, [] {}));
  pool_.close();
  EXPECT_EQ(pool_.waiting(), 0u);
  EXPECT_FALSE(pool_.submit(kShort, [] {}));
}

// Long texts are large: what waits is bounded in bytes, too.
TEST(TextPool, LongTextsThatWaitAreBoundedInBytes) {
  TextPool pool(8, 3 * kLong);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(pool.submit(kLong, [] {}));
  EXPECT_FALSE(pool.submit(kLong, [] {}));
  std::promise<void> done;
  EXPECT_TRUE(pool.submit(kShort, [] {}));
  std::jthread thread([&] { pool.run(); });
  ASSERT_TRUE([&] {
    for (int i = 0; i < 60'000 && pool.waiting() > 0; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return pool.waiting() == 0;
  }());
  EXPECT_TRUE(pool.submit(3 * kLong, [&] { done.set_value(); })) << "what was taken makes room";
  EXPECT_EQ(done.get_future().wait_for(seconds(60)), std::future_status::ready);
  pool.close();
}

}  // namespace
}  // namespace baton::coordinator
