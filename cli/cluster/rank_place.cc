#include "cli/cluster/rank_place.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "base/cat.h"

namespace baton::cli {
namespace {

// An orchestrator by its variables.
struct Orchestrator {
  const char* name;
  const char* rank;
  const char* ranks;
};
constexpr Orchestrator kOrchestrators[] = {
    {"LeaderWorkerSet", "LWS_WORKER_INDEX", "LWS_GROUP_SIZE"},
    {"SLURM", "SLURM_PROCID", "SLURM_NTASKS"},
    {"Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
    {"PMI", "PMI_RANK", "PMI_SIZE"},
};

int number(const std::string& text) {
  int value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size() ? value : -1;
}

using Get = std::function<std::string(const char*)>;

// The host of rank 0, when this orchestrator names it.
std::string host_of_rank_zero(const Orchestrator& who, const Get& get) {
  if (who.name == std::string_view("LeaderWorkerSet")) return get("LWS_LEADER_ADDRESS");
  if (who.name != std::string_view("SLURM")) return "";
  const std::string step = first_slurm_host(get("SLURM_STEP_NODELIST"));
  return step.empty() ? first_slurm_host(get("SLURM_JOB_NODELIST")) : step;
}

absl::StatusOr<RankPlace> from_environment(const RankQuestion& q, const Get& get) {
  for (const Orchestrator& who : kOrchestrators) {
    const std::string rank = get(who.rank);
    if (rank.empty()) continue;
    const std::string ranks = get(who.ranks);
    RankPlace place{.rank = number(rank), .ranks = q.ranks, .source = who.name};
    if (place.rank < 0) return absl::InvalidArgumentError(cat(who.rank, "=", rank, " is no rank"));
    if (number(ranks) != q.ranks)
      return absl::InvalidArgumentError(cat(who.name, " says ", who.ranks, "=",
                                            ranks.empty() ? "(nothing)" : ranks,
                                            ", but parallel.tensor x parallel.pipeline is ", q.ranks));
    if (const std::string host = host_of_rank_zero(who, get); !host.empty())
      place.rendezvous = cat(host, ":", q.port);
    return place;
  }
  if (q.hosts_rank >= 0) return RankPlace{.rank = q.hosts_rank, .ranks = q.ranks, .source = "hosts"};
  return absl::InvalidArgumentError(
      cat("a worker of ", q.ranks,
          " ranks: which is this? Give --rank, or start it by LeaderWorkerSet, SLURM or MPI, or name `hosts` "
          "in its pool (docs/multi_host.md)"));
}

}  // namespace

absl::StatusOr<RankPlace> find_rank(const RankQuestion& q, const Get& get) {
  if (q.ranks == 1 && q.flag_rank <= 0) return RankPlace{.source = "one rank"};
  RankPlace place{.rank = q.flag_rank, .ranks = q.ranks, .source = "flags"};
  if (q.flag_rank < 0) {
    ASSIGN_OR_RETURN(place, from_environment(q, get));
  }
  if (place.rendezvous.empty()) place.rendezvous = q.hosts_rendezvous;
  if (!q.manifest_rendezvous.empty()) place.rendezvous = q.manifest_rendezvous;
  if (!q.flag_rendezvous.empty()) place.rendezvous = q.flag_rendezvous;
  if (place.rank >= place.ranks)
    return absl::InvalidArgumentError(
        cat("rank ", place.rank, " (", place.source, ") of ", place.ranks, ": want 0 to ", place.ranks - 1));
  if (place.rendezvous.empty())
    return absl::InvalidArgumentError(
        cat("rank ", place.rank, " (", place.source,
            ") does not know where rank 0 listens: give --rendezvous host:port or parallel.rendezvous"));
  return place;
}

bool orchestrator_says(const std::function<std::string(const char*)>& get) {
  return std::ranges::any_of(kOrchestrators,
                             [&get](const Orchestrator& who) { return !get(who.rank).empty(); });
}

std::string environment_variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

bool stays_on_host(const std::string& rendezvous) {
  const std::string host = rendezvous.substr(0, rendezvous.rfind(':'));
  return rendezvous.empty() || rendezvous.starts_with("unix:") || host == "localhost" || host == "[::1]" ||
         host.starts_with("127.");
}

std::string first_slurm_host(const std::string& list) {
  const size_t end = list.find_first_of(",[");
  if (end == list.npos || list[end] == ',') return list.substr(0, end);
  const size_t number_end = list.find_first_of("-,]", end + 1);
  if (number_end == list.npos) return "";
  return list.substr(0, end) + list.substr(end + 1, number_end - end - 1);
}

std::string rank_name(const std::string& worker, int rank) {
  return rank == 0 ? worker : cat(worker, ".", rank);
}

}  // namespace baton::cli
