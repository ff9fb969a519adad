#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace baton {

// Hosts on one machine: network namespaces of their own, each joined by a veth pair to a router namespace, so
// that bytes between two hosts go through a network and links can be cut. Nothing has a name: namespaces end
// with the last process inside and this object's descriptors, and processes with the thread that started
// them, so a killed test leaves nothing behind.
//
//   host 0  10.77.0.2 ---- router ---- 10.77.1.2  host 1
//
// Needs root and `ip`. A test without them skips:
//   auto hosts = NetworkHosts::make(2);
//   if (!hosts.ok()) GTEST_SKIP() << hosts.status();
//
// Everything but the network is shared with the machine (files, process ids, shared memory), so a test checks
// itself that no lane of one host is used. Thread: one.
class NetworkHosts {
 public:
  static absl::StatusOr<std::unique_ptr<NetworkHosts>> make(int hosts);
  ~NetworkHosts();
  NetworkHosts(const NetworkHosts&) = delete;
  NetworkHosts& operator=(const NetworkHosts&) = delete;

  int size() const { return static_cast<int>(hosts_.size()); }
  std::string address(int host) const;

  // Runs `body` with the calling thread inside the host; threads and processes it starts stay there.
  void inside(int host, const std::function<void()>& body) const;
  // A child process inside the host; it ends with body's value. The caller waits for it.
  pid_t fork_inside(int host, const std::function<int()>& body) const;
  // A program inside the host, with a /sys that shows the host's interfaces (UCX reads it).
  pid_t start_inside(int host, const std::vector<std::string>& command) const;

  // The calling process gets a /sys that shows the interfaces of the network it is in, until its end.
  static bool show_own_interfaces();

  // Packets from one host to another vanish in the router, without a word to either; and again come through.
  absl::Status cut(int from, int to);
  absl::Status heal(int from, int to);
  // So many percent of the packets from one host to another vanish. An error where iptables is missing.
  absl::Status lose(int from, int to, int percent);
  // What leaves the router towards the host, at most so many megabits a second.
  absl::Status limit_rate(int host, int megabits);

 private:
  NetworkHosts() = default;
  absl::Status connect(int host);
  absl::Status run_in(int space, const std::string& script) const;

  int router_ = -1;
  std::vector<int> hosts_;  // descriptors of the namespaces
};

}  // namespace baton
