#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace baton::cli {

// "10.0.0.1:8001", "[::1]:8001", "name:8001" in two parts; the host without brackets.
struct HostPort {
  std::string host;
  int port = 0;
};
// Nothing when the text is no host:port (0 to 65535). Example: "8001" and ":8001" are none.
std::optional<HostPort> split_host_port(const std::string& text);
// And back; IPv6 addresses in brackets.
std::string join_host_port(const std::string& host, int port);

// Other machines cannot reach it.
bool is_loopback_host(const std::string& host);
// A client of the socket that listens on `listens` came from this machine: over loopback, or over that
// address.
bool from_this_machine(std::string_view client, const std::string& listens);
// "0.0.0.0" or "::": every address of the machine, hence none that could be told to others.
bool is_wildcard_host(const std::string& host);
bool is_numeric_host(const std::string& host);
// The numeric address lies in "10.0.0.0/8" or "fd00::/16". False for texts that are none.
bool in_network(const std::string& host, const std::string& network);
// "10.0.0.0/8": an address and a number of bits.
bool is_network(const std::string& text);

}  // namespace baton::cli
