#include "tests/support/network_hosts.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <thread>

#include "base/cat.h"
#include "base/check.h"
#include "base/status.h"
#include "tests/support/end_with.h"

namespace baton {
namespace {

int own_network() { return ::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC); }

// A descriptor of a new, empty namespace; -1 without the rights.
int new_network() {
  int space = -1;
  std::thread([&space] {  // a thread has its own network and takes it along when it ends
    if (::unshare(CLONE_NEWNET) == 0) space = own_network();
  })
      .join();
  return space;
}

absl::Status exit_status(pid_t child, const std::string& what) {
  int status = 0;
  if (child < 0 || ::waitpid(child, &status, 0) != child)
    return absl::InternalError(cat(what, ": ", std::strerror(errno)));
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    return absl::InternalError(cat("in a namespace: `", what, "` failed"));
  return absl::OkStatus();
}

[[noreturn]] void become(const std::vector<std::string>& command) {
  std::vector<char*> words;
  for (const std::string& word : command) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  ::execvp(words[0], words.data());
  ::_exit(127);
}

}  // namespace

absl::StatusOr<std::unique_ptr<NetworkHosts>> NetworkHosts::make(int count) {
  std::unique_ptr<NetworkHosts> made(new NetworkHosts);
  const auto add = [](int& space) {
    space = new_network();
    return space >= 0 ? absl::OkStatus()
                      : absl::PermissionDeniedError("network namespaces cannot be made here (want root)");
  };
  RETURN_IF_ERROR(add(made->router_));
  RETURN_IF_ERROR(made->run_in(made->router_, "ip link set lo up && echo 1 > /proc/sys/net/ipv4/ip_forward"));
  for (int host = 0; host < count; ++host) {
    RETURN_IF_ERROR(add(made->hosts_.emplace_back(-1)));
    RETURN_IF_ERROR(made->connect(host));
  }
  return made;
}

NetworkHosts::~NetworkHosts() {
  for (const int space : hosts_) ::close(space);
  ::close(router_);
}

std::string NetworkHosts::address(int host) const { return cat("10.77.", host, ".2"); }

// The kernel takes a moment to call a new interface running; UCX does not take it before.
constexpr const char* kUntilRunning =
    "for i in $(seq 500); do ip link show eth0 | grep -q 'state UP' && exit 0; sleep 0.01; done; exit 1";

absl::Status NetworkHosts::connect(int host) {
  const std::string space = cat("/proc/", ::getpid(), "/fd/", hosts_[host]);
  const std::string port = cat("host", host);
  const std::string net = cat("10.77.", host, ".");
  RETURN_IF_ERROR(
      run_in(router_, cat("ip link add ", port, " type veth peer name eth0 netns ", space,
                          " && ip address add ", net, "1/30 dev ", port, " && ip link set ", port, " up")));
  return run_in(hosts_[host], cat("ip link set lo up && ip address add ", net,
                                  "2/30 dev eth0 && ip link set eth0 up && ip route add default via ", net,
                                  "1 && ", kUntilRunning));
}

absl::Status NetworkHosts::run_in(int space, const std::string& script) const {
  const std::vector<std::string> command{"sh", "-c", script};
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setns(space, CLONE_NEWNET) != 0) ::_exit(126);
    become(command);
  }
  return exit_status(child, script);
}

void NetworkHosts::inside(int host, const std::function<void()>& body) const {
  const int home = own_network();
  BATON_CHECK(home >= 0 && ::setns(hosts_[host], CLONE_NEWNET) == 0);
  body();
  BATON_CHECK(::setns(home, CLONE_NEWNET) == 0);
  ::close(home);
}

pid_t NetworkHosts::fork_inside(int host, const std::function<int()>& body) const {
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child == 0) {
    if (!end_with(parent) || ::setns(hosts_[host], CLONE_NEWNET) != 0) ::_exit(126);
    ::_exit(body());
  }
  return child;
}

pid_t NetworkHosts::start_inside(int host, const std::vector<std::string>& command) const {
  return fork_inside(host, [&command] {
    if (!show_own_interfaces()) return 126;
    become(command);
  });
}

bool NetworkHosts::show_own_interfaces() {
  return ::unshare(CLONE_NEWNS) == 0 && ::mount("", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
         ::mount("sysfs", "/sys", "sysfs", 0, nullptr) == 0;
}

absl::Status NetworkHosts::cut(int from, int to) {
  return run_in(router_, cat("ip rule add from ", address(from), " to ", address(to), " blackhole"));
}

absl::Status NetworkHosts::heal(int from, int to) {
  return run_in(router_, cat("ip rule del from ", address(from), " to ", address(to), " blackhole"));
}

absl::Status NetworkHosts::lose(int from, int to, int percent) {
  return run_in(router_, cat("iptables -A FORWARD -s ", address(from), " -d ", address(to),
                             " -m statistic --mode random --probability ", percent / 100, ".",
                             percent % 100 < 10 ? "0" : "", percent % 100, " -j DROP"));
}

absl::Status NetworkHosts::limit_rate(int host, int megabits) {
  return run_in(router_, cat("tc qdisc replace dev host", host, " root tbf rate ", megabits,
                             "mbit burst 256kb latency 100ms"));
}

}  // namespace baton
