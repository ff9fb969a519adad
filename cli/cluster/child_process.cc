#include "cli/cluster/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/cat.h"

namespace baton::cli {
namespace {

Instant now() { return std::chrono::steady_clock::now(); }

std::string own_binary() {
  char path[4096];
  const ssize_t n = ::readlink("/proc/self/exe", path, sizeof path - 1);
  return n > 0 ? std::string(path, static_cast<size_t>(n)) : "/proc/self/exe";
}

void pin(const std::vector<int>& cpus) {
  if (cpus.empty()) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cpus) CPU_SET(cpu, &set);
  ::sched_setaffinity(0, sizeof set, &set);
}

// Out of the way of 0 to 3, which the child is about to give away (its parent may have had some of them
// closed), and not closed by exec.
int aside(int fd) { return ::fcntl(fd, F_DUPFD, 10); }

// In the child, after the fork.
[[noreturn]] void execute(const ChildProcess& child, const std::vector<char*>& argv, pid_t parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(1);
  ::setpgid(0, 0);  // a Ctrl-C in the terminal reaches the parent alone, which ends children in order
  sigset_t none;
  sigemptyset(&none);
  ::pthread_sigmask(SIG_SETMASK, &none, nullptr);
  const int report = child.report_fd >= 0 ? aside(child.report_fd) : -1;
  const int out = aside(::open(child.output_file.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600));
  const int null = aside(::open("/dev/null", O_RDONLY));
  if (report >= 0) ::dup2(report, 3);
  ::dup2(null, 0);
  ::dup2(out, 1);
  ::dup2(out, 2);
  ::close_range(child.report_fd >= 0 ? 4 : 3, ~0U, 0);
  for (const auto& [name, value] : child.environment) ::setenv(name.c_str(), value.c_str(), 1);
  pin(child.cpus);
  ::execv(argv[0], argv.data());
  ::execv("/proc/self/exe", argv.data());  // a build has replaced the file: the one that runs is meant
  ::_exit(127);
}

// One line from `fd`, or what was read when it closes or the deadline passes.
std::string read_line(int fd, Instant deadline) {
  std::string line;
  while (line.find('\n') == std::string::npos) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - now()).count();
    pollfd p{.fd = fd, .events = POLLIN, .revents = 0};
    if (left <= 0 || ::poll(&p, 1, static_cast<int>(left)) <= 0) break;
    char buffer[512];
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n <= 0) break;
    line.append(buffer, static_cast<size_t>(n));
  }
  return line.substr(0, line.find('\n'));
}

}  // namespace

absl::StatusOr<int> start_child(const ChildProcess& child) {
  std::string self = own_binary();
  std::vector<std::string> arguments = child.arguments;
  std::vector<char*> argv{self.data()};
  for (std::string& a : arguments) argv.push_back(a.data());
  argv.push_back(nullptr);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid == 0) execute(child, argv, parent);
  if (pid < 0)
    return absl::ResourceExhaustedError(
        cat("no process could be started: fork: ", std::strerror(errno),
            " (a limit of processes, as of ulimit -u or the container's pids, or no memory)"));
  return pid;
}

absl::StatusOr<CoordinatorReport> start_coordinator(ChildProcess child, Duration limit) {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return absl::InternalError(cat("pipe: ", std::strerror(errno)));
  child.report_fd = fds[1];
  child.arguments.insert(child.arguments.end(), {"--report-fd", "3"});
  const absl::StatusOr<int> pid = start_child(child);
  ::close(fds[1]);
  if (!pid.ok()) {
    ::close(fds[0]);
    return pid.status();
  }
  CoordinatorReport out{.pid = *pid, .http = "", .membership = ""};
  const std::string line = read_line(fds[0], now() + limit);
  ::close(fds[0]);
  boost::system::error_code error;
  const boost::json::value report = boost::json::parse(line, error);
  const auto text = [&](const char* key) {
    const auto* v = error || !report.is_object() ? nullptr : report.as_object().if_contains(key);
    return v && v->is_string() ? std::string(v->as_string()) : "";
  };
  out.http = text("http");
  out.membership = text("membership");
  if (!out.http.empty() && !out.membership.empty()) return out;
  ::kill(out.pid, SIGTERM);
  return absl::UnavailableError(cat("the coordinator did not start: ", last_words(child.output_file)));
}

const char* signal_text(int signal) {
  switch (signal) {
    case SIGKILL:
      return "somebody's kill -9, or the kernel was out of memory (dmesg says which)";
    case SIGBUS:
      return "a mapped file was shortened (the model?), or there was no memory for a shared page";
    case SIGILL:
      return "an instruction that this CPU does not have";
    default:
      return "";
  }
}

std::string last_words(const std::string& output_file) {
  std::ifstream in(output_file);
  std::string words;
  for (std::string line; std::getline(in, line);)
    if (!line.empty()) words = line;
  if (!words.empty()) return words;
  struct statvfs disk{};
  const std::string folder = std::filesystem::path(output_file).parent_path().string();
  if (::statvfs(folder.c_str(), &disk) == 0 && disk.f_bavail == 0)
    return cat("it could not write what it said: no space is left on the disk of ", folder);
  return "it said nothing";
}

}  // namespace baton::cli
