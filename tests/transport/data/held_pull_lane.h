#pragma once

#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/cat.h"
#include "transport/data/pull_lane.h"

namespace baton::transport {

// What the reads of HeldPullLanes may do, and the pools they find. Owned by the test.
struct PullFabric {
  bool hold = false;  // reads stay under way
  bool fail = false;  // reads end with an error
  bool damage = false;
  std::map<std::string, std::span<std::byte>> files;  // by ticket
};

// A pull lane inside one process whose reads end when the test allows it, also after their peer is gone: as
// the NIC of a driver that does not stop at once.
class HeldPullLane final : public PullLane {
 public:
  HeldPullLane(PullFabric& fabric, std::span<std::byte> file)
      : fabric_(fabric), ticket_(cat("pool ", fabric.files.size())) {
    fabric_.files[ticket_] = file;
  }
  Lane lane() const override { return Lane::kGet; }
  std::string_view name() const override { return "get"; }
  const std::string& ticket() const override { return ticket_; }
  absl::StatusOr<std::unique_ptr<PeerMemory>> open(const std::string& ticket) override {
    const auto it = fabric_.files.find(ticket);
    if (it == fabric_.files.end()) return absl::InvalidArgumentError("ticket: of nobody");
    return std::make_unique<Memory>(*this, it->second);
  }
  int poll(std::vector<EndedRead>& ended) override {
    if (fabric_.hold) return 0;
    const auto due = std::exchange(reads_, {});
    for (const Read& read : due) {
      if (!fabric_.fail) std::memcpy(read.to.data(), read.from, read.to.size());
      if (fabric_.damage) read.to[0] ^= std::byte{1};
      ended.push_back({read.id, fabric_.fail ? absl::UnavailableError("get: no way") : absl::OkStatus()});
    }
    return static_cast<int>(due.size());
  }
  int descriptor() const override { return -1; }
  bool arm() override { return reads_.empty(); }
  size_t under_way() const { return reads_.size(); }

 private:
  struct Read {
    const std::byte* from;
    std::span<std::byte> to;
    ReadId id;
  };
  class Memory final : public PeerMemory {
   public:
    Memory(HeldPullLane& lane, std::span<std::byte> file) : lane_(lane), file_(file) {}
    uint64_t bytes() const override { return file_.size(); }
    void read(uint64_t offset, std::span<std::byte> to, ReadId id) override {
      lane_.reads_.push_back({file_.data() + offset, to, id});
    }

   private:
    HeldPullLane& lane_;
    const std::span<std::byte> file_;
  };

  PullFabric& fabric_;
  const std::string ticket_;
  std::deque<Read> reads_;
};

}  // namespace baton::transport
