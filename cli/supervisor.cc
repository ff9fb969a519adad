#include "cli/supervisor.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <csignal>
#include <thread>

#include "base/cat.h"
#include "base/log.h"
#include "base/timers.h"
#include "base/units.h"
#include "cli/cluster/child_process.h"
#include "cli/cluster/host_address.h"
#include "cli/cluster/http_client.h"
#include "cli/cluster/memory_plan.h"
#include "cli/cluster/process.h"
#include "cli/cluster/rank_place.h"
#include "cli/commands.h"

namespace baton::cli {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// A large model may need long to load; a worker that does not even report in this time has failed.
constexpr auto kStartLimit = seconds(300);
constexpr auto kCoordinatorStartLimit = seconds(20);
constexpr auto kJoinPatience = seconds(10);  // machines are started in any order
constexpr auto kRankPause = milliseconds(50);
constexpr auto kRankEnd = seconds(3);  // a rank whose group ended is given so long to end by itself
constexpr auto kStable = seconds(30);  // a child that lived this long starts its back-off anew

// What a worker reports (commands.h, WorkerOptions::report_fd).
constexpr std::string_view kLoaded = "loaded\n", kJoined = "joined\n";

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

// As waitpid() gave it: the process ended because another rank of its worker did.
bool is_rank_lost(int status) { return WIFEXITED(status) && WEXITSTATUS(status) == kExitRankLost; }

}  // namespace

Supervisor::Supervisor(const Home& home, HomeLock& lock, const ClusterManifest& manifest)
    : home_(home),
      lock_(lock),
      manifest_(manifest),
      manifest_file_(home.file("manifest.yaml")),
      run_(std::to_string(random_source()())),
      cores_(allowed_cores()),
      host_(own_host_names()),
      has_coordinator_(coordinator_here(manifest, host_)) {
  const sigset_t set = watched_signals();
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

Supervisor::~Supervisor() { stop(); }

std::string Supervisor::plan_text() const {
  std::string out;
  const std::vector<WorkerCores> split = split_cores(manifest_, processes_here(manifest_, host_), cores_);
  size_t worker = 0;
  int threads = 0;
  for (const PoolManifest& p : manifest_.pools)
    for (const ProcessPlace& place : places_here(p, host_)) {
      if (p.hosts.empty() && !has_coordinator_) continue;
      out += cat("  ", rank_name(cat(p.name, "-", place.index), place.rank), ": ", role_text(p.role), ", ",
                 p.device, ", ", cores_text(split[worker].threads, split[worker].cpus), ", ",
                 format_bytes(p.kv_memory_bytes), " of KV",
                 p.kv_host_memory_bytes > 0
                     ? cat(", ", format_bytes(p.kv_host_memory_bytes), " more in host memory")
                     : "",
                 "\n");
      threads += split[worker++].threads;
    }
  if (names_hosts(manifest_))
    for (const PoolManifest& p : manifest_.pools)
      if (!p.hosts.empty()) out += cat("  pool ", p.name, " runs on ", join(p.hosts, ", "), "\n");
  if (threads > cores_.count)
    out += cat("  ", threads, " threads share ", cores_.count, cores_.count == 1 ? " core" : " cores",
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
                               std::to_string(cores.threads),
                               "--log-dir",
                               home_.file("logs")};
  std::string cpus;
  for (const int cpu : cores.cpus) cpus += cat(cpus.empty() ? "" : ",", cpu);
  if (!cpus.empty()) out.insert(out.end(), {"--cpus", cpus});
  return out;
}

// Ranks of a worker come in order: rank 0 is stopped first, and then tells the others.
void Supervisor::add_process(const PoolManifest& pool, const ProcessPlace& place, const WorkerCores& cores) {
  const std::string name = cat(pool.name, "-", place.index);
  Child child{.name = rank_name(name, place.rank),
              .role = role_text(pool.role),
              .rank = place.rank,
              .arguments = worker_arguments(pool, place.index, cores)};
  if (pool.ranks() > 1) child.arguments.insert(child.arguments.end(), {"--rank", std::to_string(place.rank)});
  if (pool.ranks() > 1 && pool.hosts.empty())
    child.arguments.insert(child.arguments.end(), {"--rendezvous", cat("unix:@baton-", run_, "-", name)});
  children_.push_back(std::move(child));
}

std::string Supervisor::output_file(const Child& child) const {
  return cat(home_.state, "/logs/", child.name, ".err");
}

void Supervisor::started(Child& child, int pid) {
  child.pid = pid;
  child.started = now();
  child.restart_at = child.ends_by = kNever;
  child.ended = false;
}

void Supervisor::hang_up(Child& child) {
  if (child.report_fd >= 0) ::close(child.report_fd);
  child.report_fd = -1;
  child.said.clear();
}

absl::Status Supervisor::spawn(Child& child) {
  ChildProcess process{.arguments = child.arguments, .output_file = output_file(child)};
  hang_up(child);
  int fds[2] = {-1, -1};
  if (child.role != "coordinator" && ::pipe2(fds, O_CLOEXEC | O_NONBLOCK) == 0) {
    process.arguments.insert(process.arguments.end(), {"--report-fd", "3"});
    process.report_fd = fds[1];
    child.report_fd = fds[0];
  }
  const absl::StatusOr<int> pid = start_child(process);
  if (fds[1] >= 0) ::close(fds[1]);
  if (!pid.ok()) return pid.status();
  started(child, *pid);
  return absl::OkStatus();
}

void Supervisor::hear_children() {
  for (Child& c : children_) {
    char text[256];
    ssize_t n = 0;
    while (c.report_fd >= 0 && (n = ::read(c.report_fd, text, sizeof text)) > 0) c.said.append(text, n);
  }
}

bool Supervisor::children_said(std::string_view word) const {
  return std::ranges::all_of(children_, [&](const Child& c) {
    return c.role == "coordinator" || (word == kJoined && c.rank > 0) || c.said.contains(word);
  });
}

std::vector<std::string> Supervisor::not_joined() const {
  std::vector<std::string> out;
  for (const Child& c : children_)
    if (!has_coordinator_ && c.rank == 0 && !c.said.contains(kJoined)) out.push_back(c.name);
  return out;
}

absl::Status Supervisor::start_gateway() {
  children_.push_back(
      {.name = "coordinator",
       .role = "coordinator",
       .arguments = {"coordinator", "--manifest", manifest_file_, "--log-dir", home_.file("logs")}});
  Child& coordinator = children_.front();
  ASSIGN_OR_RETURN(
      const CoordinatorReport report,
      start_coordinator({.arguments = coordinator.arguments, .output_file = output_file(coordinator)},
                        kCoordinatorStartLimit));
  started(coordinator, report.pid);
  record_.http_address = report.http;
  if (manifest_.gateway.tls) record_.certificate = manifest_.gateway.tls->certificate.path;
  membership_address_ = report.membership;
  // A restarted coordinator must be found where the first one was; it reports to nobody.
  const auto told = split_host_port(manifest_.control.listen);
  const auto got = split_host_port(membership_address_);
  // Workers beside the coordinator must be reachable for those on other machines: they join as these do.
  if (names_hosts(manifest_)) membership_address_ = manifest_.control.join_address();
  if (!told || !got)
    return absl::InternalError(cat("the coordinator reported no address: ", membership_address_));
  coordinator.arguments.insert(coordinator.arguments.end(), {"--http", record_.http_address, "--membership",
                                                             join_host_port(told->host, got->port)});
  return absl::OkStatus();
}

absl::Status Supervisor::start() {
  RETURN_IF_ERROR(write_file(manifest_file_, to_yaml(manifest_)));
  membership_address_ = manifest_.control.join_address();
  if (has_coordinator_) RETURN_IF_ERROR(start_gateway());
  const std::vector<int> here = processes_here(manifest_, host_);
  const std::vector<WorkerCores> split = split_cores(manifest_, here, cores_);
  size_t worker = 0;
  for (size_t pool = 0; pool < here.size(); ++pool)
    if (here[pool] > 0)
      for (const ProcessPlace& place : places_here(manifest_.pools[pool], host_))
        add_process(manifest_.pools[pool], place, split[worker++]);
  if (children_.empty())
    return absl::InvalidArgumentError(cat("this machine (", host_.text(), ") is neither where workers join (",
                                          membership_address_, ") nor one of the hosts of a pool"));
  for (Child& child : children_)
    if (child.role != "coordinator") {
      (void)::unlink(home_.file(memory_plan_file(child.name)).c_str());  // written anew when it has loaded
      RETURN_IF_ERROR(spawn(child));
    }
  write_record();
  return wait_until_ready();
}

// The one that is to blame: a rank that ended because another one did may be seen before that one.
absl::Status Supervisor::find_failed_child() {
  const Child* failed = nullptr;
  int end = 0;
  for (Child& c : children_) {
    int status = 0;
    if (c.pid <= 0 || ::waitpid(c.pid, &status, WNOHANG) != c.pid) continue;
    c.pid = 0;
    if (failed != nullptr && !is_rank_lost(end)) continue;
    failed = &c;
    end = status;
  }
  if (failed == nullptr)
    return now() < lost_rank_until_ ? absl::OkStatus() : absl::UnavailableError(lost_rank_);
  std::string by;
  if (WIFSIGNALED(end)) {
    const std::string means = signal_text(WTERMSIG(end));
    by = cat(" by signal ", WTERMSIG(end), means.empty() ? "" : cat(" (", means, ")"));
  }
  const std::string words =
      cat(failed->name, " ended while starting", by, ": ", last_words(output_file(*failed)));
  if (!is_rank_lost(end)) return absl::UnavailableError(words);
  if (lost_rank_.empty()) {
    lost_rank_ = words;
    lost_rank_until_ = now() + kRankEnd;
  }
  return absl::OkStatus();
}

// All workers of this machine, as the coordinator says; without one here, by what they say themselves.
// Workers of other machines come when they come, and so does a coordinator.
bool Supervisor::workers_ready() {
  if (!has_coordinator_) {
    hear_children();
    if (!children_said(kLoaded)) return false;
    if (loaded_ == Instant{}) loaded_ = now();
    return children_said(kJoined) || now() > loaded_ + kJoinPatience;
  }
  HttpClient client(server_place(home_, record_), seconds(2));
  const auto reply = client.get("/admin/v1/workers");
  boost::system::error_code error;
  const auto workers = reply.ok() ? boost::json::parse(reply->body, error) : boost::json::value();
  if (!workers.is_array()) return false;
  const auto is_ready = [&workers](const Child& c) {
    return c.role == "coordinator" || c.rank > 0 ||
           std::ranges::any_of(workers.as_array(), [&c](const auto& w) {
             return w.at("name").as_string() == c.name && w.at("state").as_string() == "ready";
           });
  };
  if (!std::ranges::all_of(children_, is_ready)) return false;
  if (names_hosts(manifest_)) return true;
  const auto ready = client.get("/ready");
  return ready.ok() && ready->status == 200;
}

absl::Status Supervisor::wait_until_ready() {
  const Instant limit = now() + kStartLimit;
  const sigset_t set = watched_signals();
  while (now() < limit) {
    const timespec pause{.tv_sec = 0, .tv_nsec = 20'000'000};
    const int signal = ::sigtimedwait(&set, nullptr, &pause);
    if (signal == SIGINT || signal == SIGTERM || signal == SIGHUP)
      return absl::CancelledError("stopped while starting");
    RETURN_IF_ERROR(find_failed_child());
    if (!workers_ready()) continue;
    return absl::OkStatus();
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
  if (!lock_.stands(home_)) return;  // keep_files() will
  const absl::Status written = record_.write(home_);
  record_written_ = written.ok();
  if (!written.ok()) log_error("process list not written", {{"error", written.ToString()}});
}

void Supervisor::keep_files() {
  if (record_written_ && lock_.stands(home_) && ::access(home_.file("cluster.json").c_str(), F_OK) == 0)
    return;
  const absl::Status written = write_files();
  record_written_ = written.ok();
  const std::string why(written.message());
  if (written.ok()) {
    log_warn("files of the state folder were missing and are written anew", {{"folder", home_.state}});
  } else if (why != files_error_) {
    log_error("files of the state folder are missing: ps and down do not find this cluster",
              {{"pid", ::getpid()}, {"why", why}});
  }
  files_error_ = why;
}

absl::Status Supervisor::write_files() {
  RETURN_IF_ERROR(home_.make_directories());
  if (!lock_.stands(home_)) RETURN_IF_ERROR(lock_.take_again(home_));
  RETURN_IF_ERROR(write_file(manifest_file_, to_yaml(manifest_)));
  return record_.write(home_);
}

void Supervisor::reap(Instant at) {
  bool changed = false;
  for (Child& c : children_) {
    int status = 0;
    if (c.pid <= 0 || ::waitpid(c.pid, &status, WNOHANG) != c.pid) continue;
    if (at - c.started > kStable) c.restarts = 0;
    // A rank that ended because another one did is not to blame: it comes back at once and waits for that
    // one.
    const bool blameless = c.ended || is_rank_lost(status);
    const Duration pause = blameless ? Duration(kRankPause) : backoff(c.restarts++);
    log_warn("process died", {{"name", c.name},
                              {"pid", c.pid},
                              {"signal", WIFSIGNALED(status) ? WTERMSIG(status) : 0},
                              {"code", WIFEXITED(status) ? WEXITSTATUS(status) : 0},
                              {"restart_ms", std::chrono::duration_cast<milliseconds>(pause).count()},
                              {"last_words", last_words(output_file(c))},
                              {"means", WIFSIGNALED(status) ? signal_text(WTERMSIG(status)) : ""}});
    c.pid = 0;
    c.restart_at = at + pause;
    doom_siblings(c, at);
    changed = true;
  }
  if (changed) write_record();
}

// A rank outlives its group by the time it takes to notice; one that is stopped would never.
void Supervisor::doom_siblings(const Child& dead, Instant at) {
  for (Child& c : children_)
    if (c.pid > 0 && c.worker() == dead.worker() && c.life <= dead.life)
      c.ends_by = std::min(c.ends_by, at + kRankEnd);
}

// The ranks of a group have the same number.
int Supervisor::next_life(const Child& child) const {
  int life = child.life + 1;
  for (const Child& c : children_)
    if (c.worker() == child.worker()) life = std::max(life, c.life);
  return life;
}

void Supervisor::restart_due(Instant at) {
  bool changed = false;
  for (Child& c : children_) {
    if (c.pid > 0 && c.ends_by <= at) {
      log_warn("process does not end with its group", {{"name", c.name}, {"pid", c.pid}});
      ::kill(c.pid, SIGKILL);  // reaped like any other
      c.ends_by = kNever;
      c.ended = true;
    }
    if (c.pid == 0 && c.restart_at <= at) changed |= restart(c, at);
  }
  if (changed) write_record();
}

// False when there was no room for it: that passes, and it is tried again.
bool Supervisor::restart(Child& child, Instant at) {
  const int life = next_life(child);
  if (const absl::Status s = spawn(child); !s.ok()) {
    const Duration pause = backoff(++child.restarts);
    child.restart_at = at + pause;
    log_error("process could not be started",
              {{"name", child.name},
               {"why", std::string(s.message())},
               {"again_ms", std::chrono::duration_cast<milliseconds>(pause).count()}});
    return false;
  }
  child.life = life;
  log_info("process started anew", {{"name", child.name}, {"pid", child.pid}});
  return true;
}

void Supervisor::watch_until_signal() {
  const sigset_t set = watched_signals();
  for (;;) {
    const timespec pause{.tv_sec = 0, .tv_nsec = 250'000'000};
    const int signal = ::sigtimedwait(&set, nullptr, &pause);
    if (signal == SIGINT || signal == SIGTERM || signal == SIGHUP) return;
    reap(now());
    restart_due(now());
    keep_files();
  }
}

void Supervisor::stop_child(Child& child, Instant deadline) {
  hang_up(child);
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
    const bool drains = c.role == "coordinator" || !has_coordinator_;
    if (!drains && c.pid > 0) ::kill(c.pid, SIGTERM);
    stop_child(c, drains ? deadline : now() + seconds(5));
  }
  children_.clear();
  if (lock_.stands(home_)) ClusterRecord::remove(home_);
}

}  // namespace baton::cli
