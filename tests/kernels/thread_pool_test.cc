#include "kernels/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <chrono>
#include <ctime>
#include <vector>

namespace baton::kernels::cpu {
namespace {

double process_cpu_seconds() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

TEST(ThreadPool, EveryThreadRunsEveryJobOnce) {
  for (const int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads, {});
    ASSERT_EQ(pool.size(), threads);
    std::vector<int> runs(threads, 0);  // plain ints: the join must order them
    for (int job = 0; job < 2000; ++job) {
      pool.run([&](int thread) { ++runs[thread]; });
      for (const int count : runs) ASSERT_EQ(count, job + 1);
    }
  }
}

TEST(ThreadPool, WorkOfOneJobIsSeenByTheNext) {
  ThreadPool pool(3, {});
  std::vector<int64_t> values(3000, 1);
  for (int round = 0; round < 100; ++round) {
    std::vector<int64_t> next(values.size());
    pool.run([&](int thread) {
      const Share share = share_of(static_cast<int64_t>(values.size()), thread, pool.size());
      for (int64_t i = share.begin; i < share.end; ++i) next[i] = values[values.size() - 1 - i] + 1;
    });
    values = next;
  }
  for (const int64_t v : values) EXPECT_EQ(v, 101);
}

TEST(ThreadPool, TogetherIsOneBodyWithBarriers) {
  for (const int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads, {});
    std::vector<int64_t> values(1000, 1), next(1000);
    int leaders = 0, alone = 0;
    for (int round = 0; round < 50; ++round) {
      pool.together([&] {
        for (int step = 0; step < 20; ++step) {
          pool.run([&](int thread) {
            const Share share = share_of(static_cast<int64_t>(values.size()), thread, pool.size());
            for (int64_t i = share.begin; i < share.end; ++i) next[i] = values[values.size() - 1 - i] + 1;
          });
          pool.alone([&] {
            values.swap(next);
            ++alone;
          });
          if (pool.leads()) ++leaders;
        }
      });
      EXPECT_TRUE(pool.leads());
      pool.run([&](int thread) { next[thread] = 0; });  // and jobs outside go on as before
    }
    for (const int64_t v : values) ASSERT_EQ(v, 1001);
    EXPECT_EQ(leaders, 1000);
    EXPECT_EQ(alone, 1000);
  }
}

TEST(ThreadPool, ApartIsSeenAfterTheNextBarrier) {
  for (const int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads, {});
    std::vector<int> parts(threads), sums(threads);
    pool.together([&] {
      for (int step = 1; step <= 200; ++step) {
        pool.run_apart([&](int thread) { parts[thread] = step; });  // each reads its own only
        pool.run_apart([&](int thread) { parts[thread] *= 2; });
        pool.run([](int) {});
        pool.run([&](int thread) {
          for (const int part : parts) sums[thread] += part;
        });
      }
    });
    for (const int sum : sums) EXPECT_EQ(sum, 2 * threads * 200 * 201 / 2);
    pool.run_apart([&](int thread) { sums[thread] = -1; });  // outside: a job like any other
    for (const int sum : sums) EXPECT_EQ(sum, -1);
  }
}

TEST(ThreadPool, SleepersWakeUpAndIdlingCostsNothing) {
  ThreadPool pool(3, {0, 0, 0});  // pinned to one CPU: the worst case for spinning
  pool.pin_caller();
  int sum[3] = {};
  pool.run([&](int thread) { sum[thread] = 1; });
  const double before = process_cpu_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_LT(process_cpu_seconds() - before, 0.1);
  pool.run([&](int thread) { sum[thread] += 1; });
  EXPECT_EQ(sum[0] + sum[1] + sum[2], 6);
}

TEST(ThreadPool, PoolsComeAndGo) {
  for (int i = 0; i < 50; ++i) {
    ThreadPool pool(1 + i % 4, {});
    int touched[4] = {};
    if (i % 2 == 0) pool.run([&](int thread) { touched[thread] = 1; });
    EXPECT_EQ(touched[0] + touched[1] + touched[2] + touched[3], i % 2 == 0 ? pool.size() : 0);
  }
}

TEST(Share, CoversEverythingOnceInOrder) {
  for (const int64_t count : {0, 1, 2, 7, 36, 3072}) {
    for (const int threads : {1, 2, 3, 8}) {
      int64_t next = 0;
      for (int t = 0; t < threads; ++t) {
        const Share share = share_of(count, t, threads);
        EXPECT_EQ(share.begin, next);
        EXPECT_LE(share.end - share.begin, (count + threads - 1) / threads);
        next = share.end;
      }
      EXPECT_EQ(next, count);
    }
  }
}

}  // namespace
}  // namespace baton::kernels::cpu
