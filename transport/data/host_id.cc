#include "transport/data/host_id.h"

#include <unistd.h>

#include <fstream>

namespace baton::transport {

std::string host_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string boot;
  if (!std::getline(file, boot) || boot.empty()) return "";
  char name[128];
  const ssize_t n = ::readlink("/proc/self/ns/pid", name, sizeof name);
  if (n <= 0) return "";
  return boot + "/" + std::string(name, static_cast<size_t>(n));
}

}  // namespace baton::transport
