#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "cli/cluster/rank_place.h"
#include "kernels/device.h"
#include "transport/collectives/communicator.h"
#include "transport/tls/tls_stream.h"
#include "worker/kv_transfer/kv_orders.h"
#include "worker/parallel/rank_links.h"
#include "worker/parallel/rank_pulse.h"
#include "worker/parallel/stage_split.h"

namespace baton::cli {

struct RankGroupOptions {
  RankPlace place;
  worker::ParallelShape shape;
  std::string worker;                                 // unique name: cluster and worker
  std::string build;                                  // everything that must be equal on all ranks
  Incarnation incarnation;                            // of rank 0; the others take it over
  std::optional<transport::StreamSecurity> security;  // mutual TLS between hosts; none: plain
  const Clock& clock;
  kernels::Device* device = nullptr;  // of a backend on a GPU: what a step says goes from GPU to GPU
  Duration patience;                  // of forming, and of waiting until all have loaded
};

// What joins this process to the other ranks of its worker: a communicator of all, one of the ranks of its
// stage, in a pipeline another one of all for what steps give, one of all for the pulse, and the links made
// of them. One rank has none of it. Ranks on GPUs have one over NCCL besides, for activations. Ranks of a
// stage on one host share memory even when other stages are on other hosts.
//
// Owns the communicators; the links borrow them. Thread: main makes it, then the engine's; the outbox' thread
// is its owner's to start.
class RankGroup {
 public:
  // Until all ranks are there. A rank that leaves on the way may come again until then: all begin anew.
  static absl::StatusOr<std::unique_ptr<RankGroup>> form(const RankGroupOptions& options);

  worker::RankLinks& links() { return *links_; }
  // On ranks of a pipeline's last stage.
  worker::ResultOutbox* outbox() { return outbox_.get(); }
  // How the ranks know that all of them run: whoever makes it runs it on a thread of its own, on every rank.
  std::unique_ptr<worker::RankPulse> make_pulse(const Clock& clock,
                                                std::function<worker::RankReport()> own) const;
  Incarnation incarnation() const { return incarnation_; }
  // To the ranks of this rank's stage, as of a model of one stage; in a pipeline only. Borrows this group.
  worker::RankLinks stage_links(const Clock& clock) const;
  // Until all ranks call it.
  absl::Status wait_for_all(Instant deadline) { return world_->barrier(deadline); }
  // What a row costs each rank, by rank: the same on all of them. Nothing of it is checked.
  absl::StatusOr<std::vector<worker::StageCost>> tell_costs(const worker::StageCost& own, Instant deadline);
  // Until all ranks call it: they have loaded their part of the model. `address`: of this rank's data plane.
  struct Meeting {
    worker::KvGroupKey key{};            // of rank 0, drawn for this life of the worker
    std::vector<std::string> addresses;  // of all ranks
  };
  absl::StatusOr<Meeting> meet(const std::string& address, Instant deadline);
  // "2 ranks over shm", "4 ranks over socket-tls, stages over shm"
  std::string text() const;

 private:
  absl::Status form_once(const RankGroupOptions& options);
  absl::Status form_pipeline(const RankGroupOptions& options);
  absl::Status form_on_gpus(const RankGroupOptions& options);
  // Some of the ranks (`size` from `first` on), of which this is one, meet again as a group of their own.
  absl::StatusOr<std::unique_ptr<Communicator>> form_part(const RankGroupOptions& options,
                                                          const std::string& name, int first, int size);

  std::unique_ptr<transport::TlsContext> tls_;  // null: plain
  std::unique_ptr<Communicator> world_;
  std::unique_ptr<Communicator> stage_;  // empty when the stage is the whole world
  std::unique_ptr<Communicator> results_;
  std::unique_ptr<Communicator> pulse_;
  std::unique_ptr<Communicator> gpus_;  // in GPUs' memory
  std::unique_ptr<worker::ResultOutbox> outbox_;
  std::unique_ptr<worker::RankLinks> links_;
  Incarnation incarnation_;
  std::string host_;  // this rank's own address towards the others
};

}  // namespace baton::cli
