// serve, down: the life of a cluster on this machine.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <optional>

#include "base/cat.h"
#include "base/log.h"
#include "cli/cluster/home.h"
#include "cli/cluster/host_places.h"
#include "cli/cluster/http_client.h"
#include "cli/cluster/memory_plan.h"
#include "cli/commands.h"
#include "cli/local_manifest.h"
#include "cli/supervisor.h"

namespace baton::cli {
namespace {

int complain(const absl::Status& status, int code) {
  std::fprintf(stderr, "baton: %s\n", std::string(status.message()).c_str());
  return code;
}

absl::StatusOr<ClusterManifest> manifest_for(const ServeOptions& options) {
  const bool yaml = options.model.ends_with(".yaml") || options.model.ends_with(".yml");
  if (yaml && options.manifest.empty())
    return absl::InvalidArgumentError(
        cat(options.model, " is a manifest by its name, not a model: baton serve -f ", options.model));
  absl::StatusOr<ClusterManifest> manifest = options.manifest.empty()
                                                 ? parse_manifest("local.yaml", kLocalManifest)
                                                 : read_manifest(options.manifest);
  if (!manifest.ok()) return manifest;
  if (!options.model.empty())
    manifest->model_source = options.model == "default"
                                 ? options.model
                                 : std::filesystem::absolute(options.model).lexically_normal().string();
  if (!options.api_keys.empty())
    manifest->gateway.api_keys = {
        .path = std::filesystem::absolute(options.api_keys).lexically_normal().string(),
        .place = "--api-keys"};
  if (options.port >= 0) manifest->gateway.port = static_cast<uint16_t>(options.port);
  return manifest;
}

// What each worker's memory goes to, as it reported it.
std::string memory_text(const Home& home, const Supervisor& supervisor) {
  std::string out;
  for (const ProcessRecord& process : supervisor.record().processes)
    if (const auto plan = read_file(home.file(memory_plan_file(process.name))); plan.ok())
      out += cat("  ", process.name, ": ", *plan, "\n");
  return out;
}

// Of workers that the coordinator, on another machine, does not know yet.
std::string joining_text(const Supervisor& supervisor, const ClusterManifest& manifest) {
  const std::vector<std::string> outside = supervisor.not_joined();
  if (outside.empty()) return "";
  return cat("  not joined yet: ", join(outside, ", "), "; they go on trying until a coordinator answers at ",
             manifest.control.join_address(), " (./baton logs says why not)\n");
}

constexpr const char* kTlsHint =
    "  (curl wants a name of the certificate for a host, and --cacert FILE for an authority of your own)\n";

// A line to paste that this model answers.
std::string example(const ServerPlace& server) {
  const auto models = HttpClient(server, std::chrono::seconds(2)).get("/v1/models");
  const bool chat = !models.ok() || !models->body.contains("\"has_chat_template\":false");
  return cat(
      "  curl -N ", server.url(), chat ? "/v1/chat/completions" : "/v1/completions",
      server.key.empty() ? "" : " -H \"Authorization: Bearer $BATON_API_KEY\"",
      " -H 'Content-Type: application/json' \\\n    -d '{\"model\":\"default\",\"stream\":true,",
      chat ? "\"temperature\":0.2,\"messages\":[{\"role\":\"user\",\"content\":\"Why is the sky blue?\"}]}'\n"
             "  ./baton chat      talk to it here\n"
           : "\"max_tokens\":100,\"prompt\":\"Once upon a time\"}'\n");
}

std::string banner(const Home& home, const Supervisor& supervisor, const ClusterManifest& manifest,
                   bool detached) {
  if (!supervisor.has_coordinator())
    return cat("Baton serves ", manifest.model_source, " here for the cluster at ",
               manifest.control.join_address(), "\n", supervisor.plan_text(), memory_text(home, supervisor),
               joining_text(supervisor, manifest),
               detached ? "\nStop it: ./baton down\n" : "\nStop it: Ctrl-C, or ./baton down\n");
  const ServerPlace server = server_place(home, supervisor.record());
  return cat("Baton serves ", manifest.model_source, " at ", server.url(), "/v1\n", supervisor.plan_text(),
             memory_text(home, supervisor), "\nTry it:\n", example(server),
             "  ./baton ps        see its processes\n", server.tls ? kTlsHint : "", "\n",
             detached ? "Stop it: ./baton down\n" : "Stop it: Ctrl-C, or ./baton down\n");
}

// The life of a supervised cluster in this process. `ready_fd` >= 0: a detached start, told there how it
// went.
int supervise(const Home& home, HomeLock& lock, const ClusterManifest& manifest, int ready_fd) {
  Supervisor supervisor(home, lock, manifest);
  const absl::Status started = supervisor.start();
  if (!started.ok()) {
    supervisor.stop();
    if (ready_fd < 0) return complain(started, absl::IsCancelled(started) ? kExitOk : kExitNotReady);
    const std::string reason(started.message());
    (void)!::write(ready_fd, reason.data(), reason.size());
    ::close(ready_fd);
    return kExitNotReady;
  }
  const std::string text = banner(home, supervisor, manifest, ready_fd >= 0);
  if (ready_fd < 0) {
    std::fputs(text.c_str(), stdout);
    std::fflush(stdout);
  } else {
    const std::string good = cat('\0', text);  // a leading NUL says: ready
    (void)!::write(ready_fd, good.data(), good.size());
    ::close(ready_fd);
  }
  log_info("cluster ready", {{"address", supervisor.record().http_address}, {"workers", manifest.workers()}});
  supervisor.watch_until_signal();
  if (ready_fd < 0) std::fputs("stopping\n", stderr);
  supervisor.stop();
  log_info("cluster stopped");
  return kExitOk;
}

int serve_detached(const Home& home, HomeLock& lock, const ClusterManifest& manifest) {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return complain(absl::InternalError(std::strerror(errno)), kExitFailed);
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::setsid();
    const int null = ::open("/dev/null", O_RDWR);
    for (int fd : {0, 1, 2}) ::dup2(null, fd);
    ::close(fds[0]);
    ::_exit(supervise(home, lock, manifest, fds[1]));
  }
  ::close(fds[1]);
  std::string told;
  char buffer[4096];
  for (ssize_t n; (n = ::read(fds[0], buffer, sizeof buffer)) > 0;) told.append(buffer, n);
  ::close(fds[0]);
  if (!told.empty() && told.front() == '\0') {
    std::fputs(told.c_str() + 1, stdout);
    return kExitOk;
  }
  ::waitpid(pid, nullptr, 0);
  return complain(
      absl::UnavailableError(told.empty() ? cat("the supervisor died; see ", home.state, "/logs") : told),
      kExitNotReady);
}

}  // namespace

int run_serve(const ServeOptions& options) {
  const Home home = Home::from_environment();
  auto manifest = manifest_for(options);
  if (!manifest.ok()) return complain(manifest.status(), kExitUsage);
  if (const absl::Status s = home.make_directories(); !s.ok()) return complain(s, kExitFailed);
  auto lock = HomeLock::take(home);
  if (!lock.ok()) return complain(lock.status(), kExitFailed);
  auto model = resolve_model(home, manifest->model_source);
  if (!model.ok()) return complain(model.status(), kExitFailed);
  if (manifest->model_names.empty() && manifest->model_source == "default")
    manifest->model_names = {"smollm2-135m-instruct"};
  manifest->model_source = *model;
  if (const absl::Status s =
          check_cluster_memory(*manifest, processes_here(*manifest, own_host_names()), read_memory_limit());
      !s.ok())
    return complain(s, kExitFailed);
  ClusterRecord::remove(home);  // of a supervisor that was killed
  home.set_aside_logs();
  log_open({.role = "supervisor", .file = home.file("logs/supervisor.log")});
  if (options.detach) return serve_detached(home, *lock, *manifest);
  const std::vector<int> here = processes_here(*manifest, own_host_names());
  const int count =
      names_hosts(*manifest) ? std::accumulate(here.begin(), here.end(), 0) : manifest->workers();
  std::fprintf(stderr, "starting %d %s\n", count, count == 1 ? "worker" : "workers");
  return supervise(home, *lock, *manifest, -1);
}

int run_down() {
  const Home home = Home::from_environment();
  const auto record = ClusterRecord::read(home);
  if (!record.ok()) {
    std::fprintf(stderr, "baton: %s\n", std::string(record.status().message()).c_str());
    return absl::IsNotFound(record.status()) ? kExitOk : kExitFailed;
  }
  if (HomeLock::take(home).ok()) {  // its supervisor was killed, and the pid may be somebody else's by now
    ClusterRecord::remove(home);
    std::puts("stopped: the supervisor was gone already, and its processes with it");
    return kExitOk;
  }
  const int pid = record->processes.front().pid;
  if (::kill(pid, SIGTERM) != 0 && errno != ESRCH)
    return complain(absl::PermissionDeniedError(cat("pid ", pid, ": ", std::strerror(errno))), kExitFailed);
  for (int tenths = 0; tenths < 450; ++tenths) {
    if (HomeLock::take(home).ok()) {
      ClusterRecord::remove(home);
      std::puts("stopped");
      return kExitOk;
    }
    ::usleep(100'000);
  }
  return complain(
      absl::DeadlineExceededError(cat("the supervisor (pid ", pid, ") did not stop within 45 s; kill -9 ",
                                      pid, " ends it and its children")),
      kExitFailed);
}

}  // namespace baton::cli
