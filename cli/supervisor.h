#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "cli/cluster/cores.h"
#include "cli/cluster/home.h"
#include "cli/cluster/host_places.h"
#include "cli/cluster/manifest.h"

namespace baton::cli {

// Starts the processes of a cluster that belong on this machine (all of them, unless pools name hosts),
// starts a process anew when it dies, and ends them all. A child that dies before the cluster was ever ready
// ends the start instead: its last words are the reason. Thread: main, and no other thread may exist
// (children are forked). Owns the children; they get SIGTERM when it dies. Borrows home and
// its lock.
class Supervisor {
 public:
  Supervisor(const Home& home, HomeLock& lock, const ClusterManifest& manifest);
  ~Supervisor();

  // Starts everything and waits until every worker of this machine is ready; where the coordinator is
  // elsewhere, until they have loaded, and a while for them to join. kUnavailable with the reason otherwise;
  // then all is stopped.
  absl::Status start();
  // Watches until SIGINT or SIGTERM, then stops; a second signal kills at once.
  void watch_until_signal();
  void stop();

  // Workers of this machine that have loaded, but could not join the coordinator of another one yet.
  std::vector<std::string> not_joined() const;

  const ClusterRecord& record() const { return record_; }
  bool has_coordinator() const { return has_coordinator_; }
  // One line a worker: role, threads and cores, KV.
  std::string plan_text() const;

 private:
  struct Child {
    std::string name;
    std::string role;
    int rank = 0;                        // only rank 0 of a worker is known to the coordinator
    std::vector<std::string> arguments;  // after the binary
    int pid = 0;
    int report_fd = -1;  // of a worker: what it says of itself comes from there
    std::string said;
    int restarts = 0;
    Instant started{};
    Instant restart_at = kNever;  // while it is down
    int life = 0;                 // of its group: ranks that were started for each other
    Instant ends_by = kNever;     // another rank of its group died: it ends too, or is ended ...
    bool ended = false;           // ... as it was
    std::string worker() const { return name.substr(0, rank > 0 ? name.rfind('.') : name.npos); }
  };

  absl::Status start_gateway();
  absl::Status wait_until_ready();
  bool workers_ready();
  bool children_said(std::string_view word) const;
  void hear_children();
  static void hang_up(Child& child);
  absl::Status find_failed_child();
  absl::Status spawn(Child& child);
  static void started(Child& child, int pid);
  void reap(Instant now);
  void restart_due(Instant now);
  bool restart(Child& child, Instant now);
  void doom_siblings(const Child& dead, Instant at);
  int next_life(const Child& child) const;
  void write_record();
  // So that ps and down find the cluster after somebody removed the state folder, or the disk was full.
  void keep_files();
  absl::Status write_files();
  void stop_child(Child& child, Instant deadline);
  std::string output_file(const Child& child) const;
  void add_process(const PoolManifest& pool, const ProcessPlace& place, const WorkerCores& cores);
  std::vector<std::string> worker_arguments(const PoolManifest& pool, int index,
                                            const WorkerCores& cores) const;

  const Home& home_;
  HomeLock& lock_;
  bool record_written_ = false;
  std::string files_error_;  // why not
  ClusterManifest manifest_;
  std::string manifest_file_;
  std::string membership_address_;
  std::vector<Child> children_;  // the coordinator first
  ClusterRecord record_;
  std::string run_;  // random: what this run calls things that others can see
  const AllowedCores cores_;
  const HostNames host_;
  const bool has_coordinator_;
  Instant loaded_{};  // all of this machine, when the coordinator is on another one
  // At a start: what a rank said that ended because another one did, and how long that one is looked for.
  std::string lost_rank_;
  Instant lost_rank_until_ = kNever;
};

}  // namespace baton::cli
