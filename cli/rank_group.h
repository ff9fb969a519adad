#pragma once

#include <memory>
#include <string>

#include "base/clock.h"
#include "base/ids.h"
#include "cli/rank_place.h"
#include "transport/collectives/communicator.h"
#include "worker/parallel/rank_links.h"

namespace baton::cli {

struct RankGroupOptions {
  RankPlace place;
  worker::ParallelShape shape;
  std::string worker;       // unique name: cluster and worker
  std::string build;        // everything that must be equal on all ranks
  Incarnation incarnation;  // of rank 0; the others take it over
  const Clock& clock;
  Duration patience;  // of forming, and of waiting until all have loaded
};

// What joins this process to the other ranks of its worker: a communicator of all, one of the ranks of its
// stage, and the links made of them. One rank has none of it. Ranks of a stage on one host share memory even
// when other stages are on other hosts.
//
// Owns the communicators; the links borrow them. Thread: main makes it, then the engine's.
class RankGroup {
 public:
  static absl::StatusOr<std::unique_ptr<RankGroup>> form(const RankGroupOptions& options);

  worker::RankLinks& links() { return *links_; }
  Incarnation incarnation() const { return incarnation_; }
  // Until all ranks call it: they have loaded their part of the model.
  absl::Status meet(Instant deadline) { return world_->barrier(deadline); }
  // "2 ranks over shm", "4 ranks over socket, stages over shm"
  std::string text() const;

 private:
  absl::Status form_stage(const RankGroupOptions& options, const std::string& own_host);

  std::unique_ptr<Communicator> world_;
  std::unique_ptr<Communicator> stage_;  // empty when the stage is the whole world
  std::unique_ptr<worker::RankLinks> links_;
  Incarnation incarnation_;
};

}  // namespace baton::cli
