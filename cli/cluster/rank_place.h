#pragma once

#include <functional>
#include <string>

#include "base/status.h"

namespace baton::cli {

// Which rank of its worker's group a process is, where rank 0 listens for the others, and who said so.
struct RankPlace {
  int rank = 0;
  int ranks = 1;
  std::string rendezvous;  // "host:port" or "unix:@name"; empty for one rank
  std::string source;      // "flags", "LeaderWorkerSet", "SLURM", "Open MPI", "PMI", "hosts", or "one rank"
};

struct RankQuestion {
  int ranks = 1;                    // tensor x pipeline of the pool
  int flag_rank = -1;               // --rank
  std::string flag_rendezvous;      // --rendezvous
  std::string manifest_rendezvous;  // parallel.rendezvous
  int port = 7100;                  // of a rendezvous whose host the orchestrator names
  int hosts_rank = -1;              // what the manifest's `hosts` says about this machine
  std::string hosts_rendezvous;
};

// The first of these that says a rank: --rank; LWS_WORKER_INDEX (LWS_GROUP_SIZE, LWS_LEADER_ADDRESS);
// SLURM_PROCID (SLURM_NTASKS; the first of SLURM_STEP_NODELIST or SLURM_JOB_NODELIST); OMPI_COMM_WORLD_RANK
// (.._SIZE); PMI_RANK (PMI_SIZE); `hosts` of the manifest. Its size must be `ranks`. The rendezvous is
// --rendezvous, the manifest's, or the host that the orchestrator names with `port`; MPI names none. `get`
// returns a variable or "".
absl::StatusOr<RankPlace> find_rank(const RankQuestion& question,
                                    const std::function<std::string(const char*)>& get);
std::string environment_variable(const char* name);
// One of the orchestrators has set its variable for the rank.
bool orchestrator_says(const std::function<std::string(const char*)>& get);

// "unix:@name", loopback, or nothing: other machines cannot reach it.
bool stays_on_host(const std::string& rendezvous);

// The first host of a SLURM list. Example "gpu[07-09,12],login1": gpu07.
std::string first_slurm_host(const std::string& list);

// "any-0" for rank 0, which is the worker to everybody else; "any-0.1" for rank 1.
std::string rank_name(const std::string& worker, int rank);

}  // namespace baton::cli
