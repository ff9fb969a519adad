#include "transport/data/host_id.h"

#include <unistd.h>

#include <fstream>

namespace baton::transport {

std::string host_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string boot;
  if (!std::getline(file, boot) || boot.empty()) return "";
  // What can be reached differs with the network as well: a container with addresses of its own is a host.
  std::string id = boot;
  for (const char* space : {"/proc/self/ns/pid", "/proc/thread-self/ns/net"}) {
    char name[128];
    const ssize_t n = ::readlink(space, name, sizeof name);
    if (n <= 0) return "";
    id += "/" + std::string(name, static_cast<size_t>(n));
  }
  return id;
}

bool same_machine(const std::string& host_id, const std::string& other) {
  const std::string boot = host_id.substr(0, host_id.find('/'));
  return !boot.empty() && boot == other.substr(0, other.find('/'));
}

}  // namespace baton::transport
