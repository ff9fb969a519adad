#pragma once

#include <ucp/api/ucp.h>

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "transport/data/pull_lane.h"

namespace baton::transport {

// Lane `get`: the receiver reads the sender's pool with UCX's one-sided get, a NIC's RDMA read. Emulated, the
// sender's progress thread answers in messages over TCP, and UCX aborts it when the reader dies meanwhile
// (docs/adr/0016): for tests and benchmarks. Messages and offers do not pass here. One context and one
// worker; a peer is an endpoint with peer error handling and an unpacked key, both gone only when no read of
// theirs is under way: UCX 1.13 goes on writing after a forced close over shared memory (measured). Thread:
// progress (UCX in single-thread mode); create() may run on another before. Owns: all UCX handles, the
// registration of the pool. Errors: UCX's words.
class UcxGetLane final : public PullLane {
 public:
  struct Options {
    std::string host;  // numeric address of the interface that traffic keeps to
    // Else hardware only: nothing listens on TCP, and where there is no RDMA device the lane cannot be made.
    bool emulate = false;
  };
  // `file`: all of the pool's memory, which outlives the lane.
  static absl::StatusOr<std::unique_ptr<UcxGetLane>> create(const Options& options,
                                                            std::span<std::byte> file);
  ~UcxGetLane() override;

  Lane lane() const override { return Lane::kGet; }
  std::string_view name() const override { return "get"; }
  const std::string& ticket() const override { return ticket_; }
  absl::StatusOr<std::unique_ptr<PeerMemory>> open(const std::string& ticket) override;
  int poll(std::vector<EndedRead>& ended) override;
  int descriptor() const override { return events_; }
  bool arm() override;

 private:
  struct Peer;
  class Memory;
  struct Reading {  // one ucp_get_nbx() under way
    UcxGetLane* lane = nullptr;
    Peer* peer = nullptr;
    ReadId id = 0;
  };

  UcxGetLane() = default;
  absl::Status start(const Options& options, std::span<std::byte> file);
  absl::Status register_pool(std::span<std::byte> file);
  void read(Peer& peer, uint64_t from, std::span<std::byte> to, ReadId id);
  void end_read(Peer& peer, ReadId id, ucs_status_t status);
  void close(Peer& peer);
  void reap_closed();
  static void on_read(void* request, ucs_status_t status, void* reading);
  static void on_error(void* self, ucp_ep_h endpoint, ucs_status_t status);

  std::string ticket_;
  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  ucp_mem_h pool_ = nullptr;
  int events_ = -1;  // owned by UCX
  std::vector<std::unique_ptr<Peer>> peers_;
  absl::flat_hash_map<Reading*, std::unique_ptr<Reading>> reading_;
  std::vector<EndedRead> ended_;
};

}  // namespace baton::transport
