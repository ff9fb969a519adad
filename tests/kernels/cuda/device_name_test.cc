#include "kernels/cuda/device_name.h"

#include <gtest/gtest.h>

namespace baton::kernels::cuda {
namespace {

TEST(DeviceName, ByIndexOrUuid) {
  EXPECT_EQ(DeviceName::parse("cuda")->index, 0);
  EXPECT_EQ(DeviceName::parse("cuda:3")->index, 3);
  EXPECT_EQ(DeviceName::parse("cuda:GPU-8f2b0e6a-0b1c")->uuid, "GPU-8f2b0e6a-0b1c");
  EXPECT_EQ(DeviceName::parse("cuda:MIG-8f2b0e6a-0b1c")->uuid, "MIG-8f2b0e6a-0b1c");
  EXPECT_EQ(DeviceName::parse("cuda:MIG-GPU-8f2b/1/0")->uuid, "MIG-GPU-8f2b/1/0");
}

TEST(DeviceName, OthersAreRefusedWithWhatIsWanted) {
  for (const char* name :
       {"cuda:", "cuda:-1", "cuda:1x", "cuda1", "cuda: 1", "cuda:GPU-", "cuda:MIG-a,b", "cpu", ""}) {
    const auto parsed = DeviceName::parse(name);
    ASSERT_FALSE(parsed.ok()) << name;
    EXPECT_NE(std::string(parsed.status().message()).find("cuda:MIG-<uuid>"), std::string::npos) << name;
  }
}

}  // namespace
}  // namespace baton::kernels::cuda
