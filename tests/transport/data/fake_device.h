#pragma once

#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "base/cat.h"
#include "kernels/device.h"

namespace baton::transport {

// GPUs of one machine without a GPU: their memory is the program's, copies happen when somebody polls for
// them and not before, and a pool that nobody has mapped, or that is unmapped, cannot be found. Thread: one.
class FakeDevice;
struct FakeMachine {
  std::map<uint64_t, FakeDevice*> devices;
  std::map<const std::byte*, int> mapped;  // pools of others, how often
  uint64_t next = 1;
};

class FakeCopies final : public kernels::DeviceStream {
 public:
  explicit FakeCopies(const int& polls) : polls_(polls) {}
  void* handle() override { return this; }
  absl::Status copy(std::byte* to, const std::byte* from, size_t bytes) override {
    waiting_.push_back({to, from, bytes});
    return absl::OkStatus();
  }
  absl::StatusOr<uint64_t> mark() override {
    left_ = polls_;
    return ++marks_;
  }
  absl::StatusOr<bool> passed(uint64_t) override {
    if (left_-- > 0) return false;
    for (const Copy& c : waiting_) std::memcpy(c.to, c.from, c.bytes);
    waiting_.clear();
    return true;
  }

 private:
  struct Copy {
    std::byte* to;
    const std::byte* from;
    size_t bytes;
  };
  const int& polls_;
  std::vector<Copy> waiting_;
  uint64_t marks_ = 0;
  int left_ = 0;
};

class FakeDevice final : public kernels::Device {
 public:
  FakeDevice(FakeMachine& machine, size_t pool_bytes)
      : number(machine.next++), kv(pool_bytes), machine_(machine) {
    machine_.devices[number] = this;
  }
  ~FakeDevice() override { machine_.devices.erase(number); }

  std::string id() const override { return cat("gpu-", number); }
  absl::StatusOr<kernels::DeviceMemory> memory() override {
    return kernels::DeviceMemory{.free = kv.size(), .total = kv.size()};
  }
  kernels::DeviceStream& step_stream() override { return steps_; }
  absl::StatusOr<std::unique_ptr<kernels::DeviceStream>> make_stream() override {
    return std::make_unique<FakeCopies>(polls);
  }
  bool await_stored(int) override { return true; }
  std::span<std::byte> kv_pool() override { return kv; }
  absl::Status pin(std::span<std::byte> host) override {
    if (!pinnable) return absl::InternalError("no more pinned memory");
    pinned.insert(host.data());
    return absl::OkStatus();
  }
  void unpin(std::span<std::byte> host) override { pinned.erase(host.data()); }
  absl::StatusOr<kernels::PoolHandle> export_pool() override {
    kernels::PoolHandle handle{.pool_bytes = kv.size(), .nonce = {number, 7}};
    std::memcpy(handle.words.data(), &number, sizeof number);
    return handle;
  }
  absl::StatusOr<const std::byte*> open_pool(const kernels::PoolHandle& handle) override {
    uint64_t wanted = 0;
    std::memcpy(&wanted, handle.words.data(), sizeof wanted);
    const auto found = machine_.devices.find(wanted);
    if (found == machine_.devices.end() || handle.nonce[0] != wanted)
      return absl::InvalidArgumentError("another one lies there");
    if (handle.pool_bytes > found->second->kv.size())
      return absl::InvalidArgumentError("its mapping is smaller");
    const std::byte* pool = found->second->kv.data();
    ++machine_.mapped[pool];
    return pool;
  }
  void close_pool(const std::byte* pool) override {
    if (--machine_.mapped[pool] == 0) machine_.mapped.erase(pool);
  }

  const uint64_t number;
  std::vector<std::byte> kv;
  std::set<std::byte*> pinned;
  bool pinnable = true;
  int polls = 3;  // that find copies not done before one finds them done

 private:
  FakeMachine& machine_;
  FakeCopies steps_{polls};
};

}  // namespace baton::transport
