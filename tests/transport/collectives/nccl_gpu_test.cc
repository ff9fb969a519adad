// NCCL itself on the machine's GPU, with one rank: loading, forming, every call. Skips with the reason where
// there is no GPU or no NCCL.
#include <gtest/gtest.h>

#include <cstring>

#include "kernels/backend.h"
#include "kernels/device.h"
#include "tests/transport/collectives/rank_threads.h"
#include "transport/collectives/nccl_communicator.h"
#include "transport/collectives/self_communicator.h"

namespace baton {
namespace {

using namespace std::chrono_literals;

class NcclOnGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = kernels::make_backend({.device = "cuda", .numerics = kernels::Numerics::kBrainDots});
    if (!made.ok()) GTEST_SKIP() << made.status().message();
    backend = *std::move(made);
    auto library = load_nccl();
    if (!library.ok()) GTEST_SKIP() << library.status().message();
    auto formed = form_nccl(
        {*std::move(library), self_communicator(), device_of().step_stream(), clock, device_of().id()},
        in(60s));
    ASSERT_TRUE(formed.ok()) << formed.status();
    nccl = *std::move(formed);
  }
  kernels::Device& device_of() { return kernels::device_backend(backend.get())->device(); }
  // Device memory with these values, and back.
  float* put(const std::vector<float>& values) {
    float* at = backend->allocate(values.size());
    EXPECT_TRUE(copy(at, values.data(), values.size()).ok());
    return at;
  }
  std::vector<float> take(const float* at, size_t count) {
    std::vector<float> values(count);
    EXPECT_TRUE(copy(values.data(), at, count).ok());
    return values;
  }
  absl::Status copy(float* to, const float* from, size_t count) {
    kernels::DeviceStream& stream = device_of().step_stream();
    RETURN_IF_ERROR(stream.copy(reinterpret_cast<std::byte*>(to), reinterpret_cast<const std::byte*>(from),
                                count * sizeof(float)));
    ASSIGN_OR_RETURN(const uint64_t mark, stream.mark());
    for (const Instant deadline = in(20s); clock.now() < deadline;) {
      ASSIGN_OR_RETURN(const bool done, stream.passed(mark));
      if (done) return absl::OkStatus();
    }
    return absl::DeadlineExceededError("a copy takes 20 s");
  }

  SteadyClock clock;
  std::unique_ptr<kernels::Backend> backend;
  std::unique_ptr<Communicator> nccl;
};

TEST_F(NcclOnGpu, EveryCallOfOneRank) {
  const std::vector<float> values{1, -2, 3.5F, 1e-30F};
  float* mine = put(values);
  float* all = put({0, 0, 0, 0});
  ASSERT_TRUE(nccl->all_reduce({mine, 4}, in(10s)).ok());
  ASSERT_TRUE(
      nccl->all_gather(std::as_bytes(std::span(mine, 4)), std::as_writable_bytes(std::span(all, 4)), in(10s))
          .ok());
  ASSERT_TRUE(nccl->broadcast(0, std::as_writable_bytes(std::span(all, 4)), in(10s)).ok());
  ASSERT_TRUE(nccl->barrier(in(10s)).ok());
  EXPECT_EQ(take(all, 4), values);
  EXPECT_TRUE(nccl->alive().ok());
}

}  // namespace
}  // namespace baton
