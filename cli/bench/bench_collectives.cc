// `baton bench collectives`: what a collective between ranks costs on this machine, lane by lane.
#include "cli/bench/bench_collectives.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <boost/json.hpp>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <functional>

#include "base/cat.h"
#include "cli/bench/bench_certificate.h"
#include "cli/cluster/cores.h"
#include "transport/collectives/form_group.h"
#include "transport/collectives/rank_sum.h"
#include "transport/collectives/stream_socket.h"

namespace baton::cli {
namespace {

using namespace std::chrono_literals;

constexpr Duration kPatience = 60s;               // of any wait
constexpr int64_t kBytesARow = int64_t{1} << 28;  // moved by one rank, about; bounds the time of a row
const char* const kOperations[] = {"all_reduce", "all_gather", "broadcast", "barrier", "ping_pong"};

Instant soon() { return SteadyClock().now() + kPatience; }

int calls_for(const BenchCollectivesOptions& o, uint64_t bytes) {
  const int64_t fits = kBytesARow / static_cast<int64_t>(std::max<uint64_t>(bytes, 4096));
  return static_cast<int>(std::clamp<int64_t>(fits, 20, o.calls));
}

void pin(int rank, const std::vector<int>& cores, int ranks) {
  if (ranks > static_cast<int>(cores.size())) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cores[rank], &set);
  ::sched_setaffinity(0, sizeof set, &set);
}

// Times `call` on this rank, a tenth of the calls not counted.
std::vector<double> timed(int calls, const std::function<absl::Status()>& call, absl::Status& status) {
  const SteadyClock clock;
  std::vector<double> us;
  for (int i = -calls / 10; i < calls && status.ok(); ++i) {
    const Instant begin = clock.now();
    status = call();
    if (i >= 0) us.push_back(1e6 * to_seconds(clock.now() - begin));
  }
  return us;
}

double quantile(std::vector<double>& us, double q) {
  std::ranges::sort(us);
  return us.empty() ? 0
                    : us[std::min(us.size() - 1, static_cast<size_t>(q * static_cast<double>(us.size())))];
}

// One operation on `bytes`, from the side of c's rank.
class Operation {
 public:
  Operation(Communicator& c, std::string name, uint64_t bytes)
      : c_(c), name_(std::move(name)), values_(bytes / sizeof(float)) {
    if (name_ == "all_gather") all_.resize(bytes * c.size());
  }
  absl::Status run() {
    const auto bytes = std::as_writable_bytes(std::span(values_));
    if (name_ == "all_reduce") return c_.all_reduce(values_, soon());
    if (name_ == "all_gather") return c_.all_gather(bytes, all_, soon());
    if (name_ == "barrier") return c_.barrier(soon());
    if (name_ == "broadcast") return c_.broadcast(0, bytes, soon());
    return ping_pong(bytes);
  }

 private:
  absl::Status ping_pong(std::span<std::byte> bytes) {
    if (c_.rank() > 1) return absl::OkStatus();
    const auto there = [&] { return c_.send(1 - c_.rank(), bytes, soon()); };
    const auto back = [&] { return c_.receive(1 - c_.rank(), bytes, soon()); };
    if (c_.rank() == 1) {
      RETURN_IF_ERROR(back());
      return there();
    }
    RETURN_IF_ERROR(there());
    return back();
  }

  Communicator& c_;
  const std::string name_;
  std::vector<float> values_;
  std::vector<std::byte> all_;
};

// All rows of one group; the same sequence of calls on every rank.
absl::Status run_rows(const BenchCollectivesOptions& o, Communicator& c, std::vector<CollectiveRow>& out) {
  for (const char* op : kOperations)
    for (const uint64_t size : o.bytes) {
      const bool barrier = op == std::string("barrier");
      if (barrier && size != o.bytes.front()) continue;
      const uint64_t bytes = barrier ? 0 : size / sizeof(float) * sizeof(float);
      const int calls = calls_for(o, bytes);
      Operation operation(c, op, bytes);
      RETURN_IF_ERROR(c.barrier(soon()));
      absl::Status status;
      std::vector<double> us = timed(calls, [&] { return operation.run(); }, status);
      RETURN_IF_ERROR(status);
      const double share = op == std::string("ping_pong") ? 0.5 : 1;
      out.push_back({.op = op,
                     .lane = c.lane(),
                     .ranks = c.size(),
                     .bytes = bytes,
                     .calls = calls,
                     .p50_us = share * quantile(us, 0.5),
                     .p99_us = share * quantile(us, 0.99)});
    }
  return c.barrier(soon());
}

absl::Status one_rank(const BenchCollectivesOptions& o, const GroupOptions& group,
                      const std::vector<int>& cores, std::vector<CollectiveRow>& out) {
  pin(group.rank, cores, group.size);
  ASSIGN_OR_RETURN(const Group formed, form_group(group));
  return run_rows(o, *formed.communicator, out);
}

// Runs body(rank) for ranks 1.. in children and body(0) here; waits for the children.
absl::Status on_ranks(int ranks, const std::function<absl::Status(int)>& body) {
  std::vector<pid_t> children;
  for (int r = 1; r < ranks; ++r) {
    const pid_t child = ::fork();
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::_exit(body(r).ok() ? 0 : 1);
    }
    children.push_back(child);
  }
  cpu_set_t before;
  ::sched_getaffinity(0, sizeof before, &before);
  const absl::Status status = body(0);
  ::sched_setaffinity(0, sizeof before, &before);
  for (const pid_t child : children) {
    if (!status.ok()) ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
  }
  return status;
}

absl::Status measure_group(const BenchCollectivesOptions& o, int ranks, const std::string& lane,
                           const std::vector<int>& cores, std::vector<CollectiveRow>& out) {
  GroupOptions group{.group = "bench",
                     .incarnation = Incarnation(1),
                     .size = ranks,
                     .rendezvous = cat("unix:@baton-bench-", ::getpid(), "-", ranks, "-", lane),
                     .lane = lane == "shm" ? GroupLane::kShm : GroupLane::kSocket,
                     .deadline = soon()};
  BenchCertificate certificate;
  std::unique_ptr<transport::TlsContext> tls;
  if (lane == "socket-tls") {
    RETURN_IF_ERROR(certificate.make());
    ASSIGN_OR_RETURN(tls, transport::TlsContext::create(certificate.security()));
    group.tls = tls.get();
  }
  if (lane != "shm") {
    ASSIGN_OR_RETURN(const OwnedFd listener, listen_at("127.0.0.1:0"));
    group.rendezvous = cat("127.0.0.1:", local_port(listener.get()));
  }
  return on_ranks(ranks, [&](int rank) {
    GroupOptions mine = group;
    mine.rank = rank;
    return one_rank(o, mine, cores, out);
  });
}

// --- The baseline

struct alignas(128) Flag {
  std::atomic<uint32_t> round;
};

// Both sides of the raw exchange; `mine` and `theirs` are shared memory.
void store_load(std::atomic<uint32_t>& up, const std::atomic<uint32_t>& wait_for, uint32_t round,
                std::span<float> values, float* mine, const float* theirs) {
  std::memcpy(mine, values.data(), values.size_bytes());
  up.store(round, std::memory_order_release);
  while (wait_for.load(std::memory_order_acquire) < round) __builtin_ia32_pause();
  const float* both[2] = {mine, theirs};
  rank_sum(both, values.data(), values.size());
}

absl::Status measure_baseline(const BenchCollectivesOptions& o, const std::vector<int>& cores,
                              std::vector<CollectiveRow>& out) {
  const uint64_t largest = *std::ranges::max_element(o.bytes);
  const size_t size = 2 * sizeof(Flag) + 4 * largest;
  void* memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return absl::ResourceExhaustedError("mmap of the baseline");
  auto* flags = static_cast<Flag*>(memory);
  auto* floats = reinterpret_cast<float*>(flags + 2);
  const absl::Status status = on_ranks(2, [&](int rank) {
    pin(rank, cores, 2);
    uint32_t round = 0;
    for (const uint64_t bytes : o.bytes) {
      std::vector<float> values(bytes / sizeof(float));
      absl::Status ok;
      const auto slot = [&](int r) { return floats + (2 * r + round % 2) * (largest / sizeof(float)); };
      std::vector<double> us = timed(
          calls_for(o, bytes),
          [&] {
            ++round;
            store_load(flags[rank].round, flags[1 - rank].round, round, values, slot(rank), slot(1 - rank));
            return absl::OkStatus();
          },
          ok);
      out.push_back({.op = "store_load",
                     .lane = "memory",
                     .ranks = 2,
                     .bytes = bytes,
                     .calls = static_cast<int>(us.size()),
                     .p50_us = quantile(us, 0.5),
                     .p99_us = quantile(us, 0.99)});
    }
    return absl::OkStatus();
  });
  ::munmap(memory, size);
  return status;
}

void print(const std::vector<CollectiveRow>& rows, bool as_json) {
  namespace json = boost::json;
  json::array list;
  if (!as_json)
    std::printf("%-11s %-10s %5s %10s %8s %10s %10s\n", "OP", "LANE", "RANKS", "BYTES", "CALLS", "P50 US",
                "P99 US");
  for (const CollectiveRow& r : rows) {
    if (as_json)
      list.push_back(json::object{{"op", r.op},
                                  {"ranks", r.ranks},
                                  {"bytes", r.bytes},
                                  {"lane", r.lane},
                                  {"p50_us", r.p50_us},
                                  {"p99_us", r.p99_us},
                                  {"calls", r.calls}});
    else
      std::printf("%-11s %-10s %5d %10llu %8d %10.2f %10.2f\n", r.op.c_str(), r.lane.c_str(), r.ranks,
                  static_cast<unsigned long long>(r.bytes), r.calls, r.p50_us, r.p99_us);
  }
  if (as_json)
    std::printf("%s\n",
                json::serialize(json::object{{"cores", allowed_cores().count}, {"rows", list}}).c_str());
}

}  // namespace

absl::StatusOr<std::vector<CollectiveRow>> measure_collectives(const BenchCollectivesOptions& o) {
  const std::vector<int> cores = allowed_cores().cpus;
  std::vector<CollectiveRow> rows;
  RETURN_IF_ERROR(measure_baseline(o, cores, rows));
  for (const std::string& lane : o.lanes)
    for (const int ranks : o.ranks) RETURN_IF_ERROR(measure_group(o, ranks, lane, cores, rows));
  return rows;
}

int run_bench_collectives(const BenchCollectivesOptions& options) {
  const auto rows = measure_collectives(options);
  if (!rows.ok()) {
    std::fprintf(stderr, "baton: %s\n", std::string(rows.status().message()).c_str());
    return kExitFailed;
  }
  print(*rows, options.json);
  return kExitOk;
}

}  // namespace baton::cli
