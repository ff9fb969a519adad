#include "cli/supervisor.h"

#include <sys/wait.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <csignal>
#include <thread>

#include "base/cat.h"
#include "base/log.h"
#include "base/timers.h"
#include "base/units.h"
#include "cli/child_process.h"
#include "cli/commands.h"
#include "cli/host_address.h"
#include "cli/http_client.h"
#include "cli/process.h"
#include "cli/rank_place.h"

namespace baton::cli {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// A large model may need long to load; a worker that does not even report in this time has failed.
constexpr auto kStartLimit = seconds(300);
constexpr auto kCoordinatorStartLimit = seconds(20);
constexpr auto kRankPause = milliseconds(50);
constexpr auto kStable = seconds(30);  // a child that lived this long starts its back-off anew

Instant now() { return std::chrono::steady_clock::now(); }

sigset_t watched_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (int s : {SIGINT, SIGTERM, SIGHUP, SIGCHLD}) sigaddset(&set, s);
  return set;
}

const char* role_text(WorkerRole role) {
  return role == WorkerRole::kPrefill ? "prefill" : role == WorkerRole::kDecode ? "decode" : "any";
}

Duration backoff(int restarts) {
  return restarts == 0 ? Duration{}
                       : std::min<Duration>(milliseconds(250) * (1 << std::min(restarts, 6)), seconds(10));
}

}  // namespace

Supervisor::Supervisor(const Home& home, const ClusterManifest& manifest)
    : home_(home),
      manifest_(manifest),
      manifest_file_(home.file("manifest.yaml")),
      run_(std::to_string(random_source()())),
      cores_(allowed_cores()) {
  const sigset_t set = watched_signals();
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

Supervisor::~Supervisor() { stop(); }

std::string Supervisor::plan_text() const {
  std::string out;
  const std::vector<WorkerCores> split = split_cores(manifest_, cores_);
  size_t worker = 0;
  int threads = 0;
  for (const PoolManifest& p : manifest_.pools)
    for (int i = 0; i < p.replicas * p.ranks(); ++i, ++worker) {
      out += cat("  ", rank_name(cat(p.name, "-", i / p.ranks()), i % p.ranks()), ": ", role_text(p.role),
                 ", ", p.device, ", ", cores_text(split[worker].threads, split[worker].cpus), ", ",
                 format_bytes(p.kv_memory_bytes), " of KV\n");
      threads += split[worker].threads;
    }
  if (threads > static_cast<int>(cores_.size()))
    out += cat("  ", threads, " threads share ", cores_.size(), cores_.size() == 1 ? " core" : " cores",
               ": each step waits for the others'\n");
  return out;
}

std::vector<std::string> Supervisor::worker_arguments(const PoolManifest& pool, int index,
                                                      const WorkerCores& cores) const {
  std::vector<std::string> out{"worker",
                               "--manifest",
                               manifest_file_,
                               "--pool",
                               pool.name,
                               "--index",
                               std::to_string(index),
                               "--join",
                               membership_address_,
                               "--threads",
                               std::to_string(cores.threads)};
  std::string cpus;
  for (const int cpu : cores.cpus) cpus += cat(cpus.empty() ? "" : ",", cpu);
  if (!cpus.empty()) out.insert(out.end(), {"--cpus", cpus});
  return out;
}

// All ranks of a worker, rank 0 first: it is stopped first, and then tells the others.
void Supervisor::add_worker(const PoolManifest& pool, int index, std::span<const WorkerCores> cores) {
  const std::string name = cat(pool.name, "-", index);
  for (int rank = 0; rank < pool.ranks(); ++rank) {
    Child child{.name = rank_name(name, rank),
                .role = role_text(pool.role),
                .rank = rank,
                .arguments = worker_arguments(pool, index, cores[rank])};
    if (pool.ranks() > 1)
      child.arguments.insert(child.arguments.end(), {"--rank", std::to_string(rank), "--rendezvous",
                                                     cat("unix:@baton-", run_, "-", name)});
    children_.push_back(std::move(child));
  }
}

std::string Supervisor::output_file(const Child& child) const {
  return cat(home_.state, "/logs/", child.name, ".err");
}

void Supervisor::started(Child& child, int pid) {
  child.pid = pid;
  child.started = now();
  child.restart_at = kNever;
}

void Supervisor::spawn(Child& child) {
  started(child, start_child({.arguments = child.arguments, .output_file = output_file(child)}));
}

absl::Status Supervisor::start_gateway() {
  Child& coordinator = children_.front();
  ASSIGN_OR_RETURN(
      const CoordinatorReport report,
      start_coordinator({.arguments = coordinator.arguments, .output_file = output_file(coordinator)},
                        kCoordinatorStartLimit));
  started(coordinator, report.pid);
  record_.http_address = report.http;
  membership_address_ = report.membership;
  // A restarted coordinator must be found where the first one was; it reports to nobody.
  const auto told = split_host_port(manifest_.control.listen);
  const auto got = split_host_port(membership_address_);
  if (!told || !got)
    return absl::InternalError(cat("the coordinator reported no address: ", membership_address_));
  coordinator.arguments.insert(coordinator.arguments.end(), {"--http", record_.http_address, "--membership",
                                                             join_host_port(told->host, got->port)});
  return absl::OkStatus();
}

absl::Status Supervisor::start() {
  RETURN_IF_ERROR(write_file(manifest_file_, to_yaml(manifest_)));
  children_.push_back({.name = "coordinator",
                       .role = "coordinator",
                       .arguments = {"coordinator", "--manifest", manifest_file_}});
  RETURN_IF_ERROR(start_gateway());
  const std::vector<WorkerCores> split = split_cores(manifest_, cores_);
  size_t worker = 0;
  for (const PoolManifest& pool : manifest_.pools)
    for (int i = 0; i < pool.replicas; ++i, worker += pool.ranks())
      add_worker(pool, i, std::span(split).subspan(worker));
  for (size_t i = 1; i < children_.size(); ++i) spawn(children_[i]);
  write_record();
  return wait_until_ready();
}

absl::Status Supervisor::wait_until_ready() {
  const Instant limit = now() + kStartLimit;
  HttpClient client(record_.http_address, seconds(2));
  const sigset_t set = watched_signals();
  while (now() < limit) {
    const timespec pause{.tv_sec = 0, .tv_nsec = 20'000'000};
    const int signal = ::sigtimedwait(&set, nullptr, &pause);
    if (signal == SIGINT || signal == SIGTERM || signal == SIGHUP)
      return absl::CancelledError("stopped while starting");
    for (Child& c : children_) {
      int status = 0;
      if (c.pid > 0 && ::waitpid(c.pid, &status, WNOHANG) == c.pid) {
        c.pid = 0;
        return absl::UnavailableError(cat(c.name, " ended while starting: ", last_words(output_file(c))));
      }
    }
    const auto reply = client.get("/admin/v1/workers");
    boost::system::error_code error;
    const auto workers = reply.ok() ? boost::json::parse(reply->body, error) : boost::json::value();
    size_t up = 0;
    if (workers.is_array())
      for (const auto& w : workers.as_array()) up += w.at("state") == "ready";
    if (up == static_cast<size_t>(manifest_.workers())) {
      const auto ready = client.get("/ready");
      if (ready.ok() && ready->status == 200) {
        ready_ = true;
        return absl::OkStatus();
      }
    }
  }
  return absl::UnavailableError(cat("the workers were not ready within ", format_duration(kStartLimit),
                                    "; logs are in ", home_.state, "/logs"));
}

void Supervisor::write_record() {
  record_.processes.clear();
  record_.processes.push_back({"supervisor", "supervisor", ::getpid(), ""});
  for (const Child& c : children_)
    record_.processes.push_back(
        {c.name, c.role, c.pid, c.role == "coordinator" ? record_.http_address : "", c.rank});
  if (const absl::Status s = record_.write(home_); !s.ok())
    log_error("process list not written", {{"error", s.ToString()}});
}

void Supervisor::reap(Instant at) {
  bool changed = false;
  for (Child& c : children_) {
    int status = 0;
    if (c.pid <= 0 || ::waitpid(c.pid, &status, WNOHANG) != c.pid) continue;
    if (at - c.started > kStable) c.restarts = 0;
    // A rank that ended because another one did is not to blame: it comes back at once and waits for that
    // one.
    const bool blameless = WIFEXITED(status) && WEXITSTATUS(status) == kExitRankLost;
    const Duration pause = blameless ? Duration(kRankPause) : backoff(c.restarts++);
    log_warn("process died", {{"name", c.name},
                              {"pid", c.pid},
                              {"signal", WIFSIGNALED(status) ? WTERMSIG(status) : 0},
                              {"code", WIFEXITED(status) ? WEXITSTATUS(status) : 0},
                              {"restart_ms", std::chrono::duration_cast<milliseconds>(pause).count()},
                              {"last_words", last_words(output_file(c))}});
    c.pid = 0;
    c.restart_at = at + pause;
    changed = true;
  }
  if (changed) write_record();
}

void Supervisor::restart_due(Instant at) {
  bool changed = false;
  for (Child& c : children_) {
    if (c.pid != 0 || c.restart_at > at) continue;
    spawn(c);
    log_info("process started anew", {{"name", c.name}, {"pid", c.pid}});
    changed = true;
  }
  if (changed) write_record();
}

void Supervisor::watch_until_signal() {
  const sigset_t set = watched_signals();
  for (;;) {
    const timespec pause{.tv_sec = 0, .tv_nsec = 250'000'000};
    const int signal = ::sigtimedwait(&set, nullptr, &pause);
    if (signal == SIGINT || signal == SIGTERM || signal == SIGHUP) return;
    reap(now());
    restart_due(now());
  }
}

void Supervisor::stop_child(Child& child, Instant deadline) {
  if (child.pid <= 0) return;
  ::kill(child.pid, SIGTERM);
  const sigset_t set = watched_signals();
  for (bool killed = false;;) {
    int status = 0;
    if (::waitpid(child.pid, &status, WNOHANG) == child.pid) break;
    if (!killed && now() > deadline) {
      ::kill(child.pid, SIGKILL);
      killed = true;
    }
    const timespec pause{.tv_sec = 0, .tv_nsec = 10'000'000};
    const int signal = ::sigtimedwait(&set, nullptr, &pause);
    if (signal == SIGINT || signal == SIGTERM) deadline = now();  // a second Ctrl-C: at once
  }
  child.pid = 0;
}

void Supervisor::stop() {
  // The coordinator first: it finishes its streams while the workers still serve.
  const Instant deadline = now() + timers::kDrainCap + seconds(2);
  for (Child& c : children_) {
    if (&c != &children_.front() && c.pid > 0) ::kill(c.pid, SIGTERM);
    stop_child(c, &c == &children_.front() ? deadline : now() + seconds(5));
  }
  children_.clear();
  ClusterRecord::remove(home_);
}

}  // namespace baton::cli
