#include "cli/cluster/memory_plan.h"

#include <gmock/gmock.h>

#include <filesystem>

#include "tests/worker/model/temp_dir.h"

namespace baton::cli {
namespace {

using baton::testing::TempDir;
using baton::testing::write_file;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr uint64_t kMi = 1 << 20;

class Limit : public ::testing::Test {
 protected:
  Limit() : dir_("memory-plan") { put("/proc/meminfo", "MemTotal:       2048000 kB\nMemFree: 1 kB\n"); }
  void put(const std::string& file, const std::string& text) {
    const std::string path = dir_.path() + file;
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    write_file(path, text);
  }
  TempDir dir_;
};

TEST_F(Limit, IsTheMachinesWithoutACgroup) {
  EXPECT_EQ(read_memory_limit(dir_.path()).bytes, 2048000u * 1024);
  EXPECT_EQ(read_memory_limit(dir_.path()).source, "RAM");
  put("/proc/self/cgroup", "0::/a/b\n");
  put("/sys/fs/cgroup/a/b/memory.max", "max\n");
  EXPECT_EQ(read_memory_limit(dir_.path()).source, "RAM");
}

TEST_F(Limit, IsTheSmallestOnTheWayUp) {
  put("/proc/self/cgroup", "0::/a/b\n");
  put("/sys/fs/cgroup/a/b/memory.max", "900000\n");
  EXPECT_EQ(read_memory_limit(dir_.path()).bytes, 900000u);
  put("/sys/fs/cgroup/a/memory.max", "800000\n");
  EXPECT_EQ(read_memory_limit(dir_.path()).source, "cgroup /a");
  put("/sys/fs/cgroup/memory.max", "700000\n");
  EXPECT_EQ(read_memory_limit(dir_.path()).bytes, 700000u);
  EXPECT_EQ(read_memory_limit(dir_.path()).source, "cgroup /");
}

TEST_F(Limit, KnowsTheOldHierarchy) {
  put("/proc/self/cgroup", "12:cpu:/x\n9:memory:/docker/1\n0::/\n");
  put("/sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes", "123456\n");
  EXPECT_EQ(read_memory_limit(dir_.path()).bytes, 123456u);
}

MemoryPlan small_plan() {
  return {.weights = 92 * kMi, .kv_blocks = 1456, .kv_block_bytes = 360 * 1024, .activations = 20 * kMi};
}

TEST(MemoryPlan, SaysWhatItGoesTo) {
  EXPECT_THAT(small_plan().text({uint64_t{1} << 30, "RAM"}),
              AllOf(HasSubstr("weights 92 MiB + KV 512 MiB (1456 blocks of 360 KiB)"),
                    HasSubstr("limit 1 GiB (RAM)")));
}

TEST(MemoryPlan, RefusesMoreThanThereIsWithWhatToChange) {
  EXPECT_TRUE(small_plan().check({688 * kMi, "RAM"}, "any").ok());
  const absl::Status tight = small_plan().check({300 * kMi, "cgroup /a"}, "any");
  EXPECT_TRUE(absl::IsResourceExhausted(tight));
  EXPECT_THAT(std::string(tight.message()),
              AllOf(HasSubstr("cgroup /a"), HasSubstr("lower spec.pools.any.kv.memory to 124 MiB at most")));
  EXPECT_THAT(std::string(small_plan().check({100 * kMi, "RAM"}, "any").message()),
              HasSubstr("a smaller model"));
}

TEST(MemoryPlan, CountsKvInHostMemory) {
  MemoryPlan plan = small_plan();
  plan.host_blocks = 2912;
  plan.host_block_bytes = plan.kv_block_bytes;
  EXPECT_THAT(plan.text({uint64_t{2} << 30, "RAM"}),
              HasSubstr("+ KV in host memory 1024 MiB (2912 blocks) + activations"));
  EXPECT_TRUE(plan.check({uint64_t{2} << 30, "RAM"}, "any").ok());
  EXPECT_THAT(std::string(plan.check({788 * kMi, "RAM"}, "any").message()),
              HasSubstr("lower spec.pools.any.kv.hostMemory to 100 MiB at most"));
  EXPECT_THAT(std::string(plan.check({300 * kMi, "RAM"}, "any").message()),
              HasSubstr("any.kv.memory to 124 MiB at most, without kv.hostMemory"));
}

constexpr uint64_t kGi = 1 << 30;

DeviceMemoryPlan gpu_plan() {
  return {.device = "cuda:0 NVIDIA H200",
          .weights = 16 * kGi,
          .kv = 64 * kGi,
          .activations = 2 * kGi,
          .rest = kGi,
          .free = 138 * kGi};
}

TEST(DeviceMemoryPlan, SaysWhatAGpuHasRoomFor) {
  DeviceMemoryPlan plan = gpu_plan();
  EXPECT_TRUE(plan.check("any").ok());
  EXPECT_EQ(plan.text(),
            "weights 16 GiB + KV 64 GiB + activations 2 GiB + graphs and scratch 1 GiB = 83 GiB of 138 GiB "
            "free on cuda:0 NVIDIA H200");
  plan.kv = 8 * kGi;
  EXPECT_THAT(plan.text(), HasSubstr("; kv.memory could be 119 GiB"));
  plan.kv = 120 * kGi;
  EXPECT_THAT(std::string(plan.check("any").message()),
              AllOf(HasSubstr("lower spec.pools.any.kv.memory to 119 GiB at most"), HasSubstr("nvidia-smi")));
  plan.free = 18 * kGi;
  EXPECT_TRUE(absl::IsResourceExhausted(plan.check("any")));
  EXPECT_THAT(std::string(plan.check("any").message()), HasSubstr("any.quantization: fp8"));
}

TEST(MemoryPlan, CountsAllWorkersOfAMachine) {
  ClusterManifest manifest;
  manifest.model_source = "/none";
  manifest.pools = {{.name = "any", .replicas = 3, .kv_memory_bytes = 512 * kMi}};
  EXPECT_TRUE(check_cluster_memory(manifest, {1728 * kMi, "RAM"}).ok());
  manifest.pools[0].kv_host_memory_bytes = 10 * kMi;
  EXPECT_FALSE(check_cluster_memory(manifest, {1728 * kMi, "RAM"}).ok());
  EXPECT_TRUE(check_cluster_memory(manifest, {1758 * kMi, "RAM"}).ok());
  manifest.pools[0].kv_host_memory_bytes = 0;
  const absl::Status over = check_cluster_memory(manifest, {1700 * kMi, "RAM"});
  EXPECT_TRUE(absl::IsResourceExhausted(over));
  EXPECT_THAT(std::string(over.message()),
              AllOf(HasSubstr("3 workers want 1.5 GiB of KV"), HasSubstr("lower kv.memory")));
  manifest.pools[0].device = "cuda:1";
  EXPECT_TRUE(check_cluster_memory(manifest, {200 * kMi, "RAM"}).ok()) << "KV and weights are the GPU's";
  manifest.pools[0].kv_host_memory_bytes = 10 * kMi;
  EXPECT_FALSE(check_cluster_memory(manifest, {200 * kMi, "RAM"}).ok());
}

}  // namespace
}  // namespace baton::cli
