#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <utility>

#include "base/status.h"

namespace baton::transport {

// A numeric IPv4 or IPv6 address with a port, as the kernel wants it. Names are never looked up: an address
// on the data plane is one interface, chosen by who runs the cluster.
struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t size = 0;
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  int family() const { return storage.ss_family; }
  uint16_t port() const;
};

absl::StatusOr<SocketAddress> parse_address(const std::string& host, uint16_t port);
// "127.0.0.1:4711" or "[::1]:4711", from a host and its port and back.
std::string join_address(const std::string& host, uint16_t port);
absl::StatusOr<std::pair<std::string, uint16_t>> split_address(const std::string& text);
// The address belongs to the same host, whatever the port.
bool same_host(const SocketAddress& a, const sockaddr* b);

}  // namespace baton::transport
