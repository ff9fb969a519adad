// Marks of a stream, on the emulated runtime.
#include "kernels/cuda/cuda_device.h"

#include <gtest/gtest.h>

#include <array>

#include "tests/kernels/cuda/emulation/emulated_runtime.h"

namespace baton::kernels::cuda {
namespace {

struct CudaStreamTest : ::testing::Test {
  ~CudaStreamTest() override { emulated::limits() = {}; }
};

TEST_F(CudaStreamTest, MarksPassInOrder) {
  auto stream = CudaStream::make(0);
  ASSERT_TRUE(stream.ok()) << stream.status();
  EXPECT_NE((*stream)->handle(), nullptr);
  emulated::limits().event_queries = 2;
  EXPECT_EQ((*stream)->mark().value(), 1u);
  EXPECT_EQ((*stream)->mark().value(), 2u);
  EXPECT_FALSE((*stream)->passed(2).value());  // the first mark is asked before the second
  EXPECT_FALSE((*stream)->passed(1).value());
  EXPECT_TRUE((*stream)->passed(1).value());
  EXPECT_FALSE((*stream)->passed(2).value());
  EXPECT_FALSE((*stream)->passed(2).value());
  EXPECT_TRUE((*stream)->passed(2).value());
  EXPECT_TRUE((*stream)->passed(1).value());
  EXPECT_EQ((*stream)->mark().value(), 3u);
  EXPECT_FALSE((*stream)->passed(4).value()) << "a mark that was never made";
}

TEST_F(CudaStreamTest, CopiesAndKeepsTheDevicesError) {
  auto stream = CudaStream::make(0);
  ASSERT_TRUE(stream.ok()) << stream.status();
  const std::array<std::byte, 3> from{std::byte{1}, std::byte{2}, std::byte{3}};
  std::array<std::byte, 3> to{};
  ASSERT_TRUE((*stream)->copy(to.data(), from.data(), 3).ok());
  EXPECT_EQ(to, from);
  const uint64_t mark = (*stream)->mark().value();
  emulated::limits().wait_error = cudaErrorInvalidValue;
  EXPECT_EQ((*stream)->passed(mark).status().code(), absl::StatusCode::kInternal);
}

TEST_F(CudaStreamTest, APoolIsFoundByItsHandleAndByNothingElse) {
  cudaStream_t steps = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&steps, cudaStreamNonBlocking), cudaSuccess);
  {
    CudaDevice device({.uuid = "a"}, steps, std::chrono::seconds(5)),
        other({.uuid = "b"}, steps, std::chrono::seconds(5));
    ASSERT_TRUE(device.take_pool(1024).ok());
    const auto handle = device.export_pool();
    ASSERT_TRUE(handle.ok()) << handle.status();
    const auto pool = other.open_pool(*handle);
    ASSERT_TRUE(pool.ok()) << pool.status();
    EXPECT_EQ(*pool, device.kv_pool().data());
    EXPECT_EQ(emulated::counts().pools_mapped, 1);
    other.close_pool(*pool);
    PoolHandle wrong = *handle;
    wrong.nonce[1] ^= 1;
    EXPECT_EQ(other.open_pool(wrong).status().code(), absl::StatusCode::kInvalidArgument);
    wrong = *handle;
    wrong.pool_bytes = 1025 + 16;  // more than there is behind the handle
    EXPECT_EQ(other.open_pool(wrong).status().code(), absl::StatusCode::kInvalidArgument);
    wrong.words[0] ^= std::byte{255};
    EXPECT_FALSE(other.open_pool(wrong).ok());
    EXPECT_EQ(emulated::counts().pools_mapped, 0) << "what is refused is closed";
    // Layers of a step, in order; of a step that does not tell, none.
    device.begin_step();
    ASSERT_TRUE(device.note_stored().ok());
    EXPECT_TRUE(device.await_stored(0));
    EXPECT_FALSE(device.await_stored(1));
    ASSERT_TRUE(device.end_step().ok());
    device.begin_step();  // behind it
    EXPECT_TRUE(device.await_stored(0));
    ASSERT_TRUE(device.end_step().ok());
    ASSERT_TRUE(device.await_step().ok());
    EXPECT_FALSE(device.await_stored(0));
    ASSERT_TRUE(device.await_step().ok());
    alignas(4096) static std::array<std::byte, 4096> page;
    EXPECT_TRUE(device.pin(page).ok());
    device.unpin(page);
    EXPECT_TRUE(device.pin(page).ok()) << "pinned again after it was not";
    device.unpin(page);
  }
  cudaStreamDestroy(steps);
}

}  // namespace
}  // namespace baton::kernels::cuda
