#include "cli/cluster/host_address.h"

#include <arpa/inet.h>

#include <charconv>
#include <cstring>

#include "base/cat.h"

namespace baton::cli {
namespace {

std::optional<int> number(const std::string& text, int most) {
  int value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < 0 || value > most)
    return std::nullopt;
  return value;
}

// The bytes of a numeric address, 4 or 16 of them.
std::optional<std::string> address_bytes(const std::string& host) {
  char bytes[sizeof(in6_addr)];
  if (::inet_pton(AF_INET, host.c_str(), bytes) == 1) return std::string(bytes, sizeof(in_addr));
  if (::inet_pton(AF_INET6, host.c_str(), bytes) == 1) return std::string(bytes, sizeof(in6_addr));
  return std::nullopt;
}

struct Network {
  std::string bytes;
  int bits = 0;
};

std::optional<Network> parse_network(const std::string& text) {
  const size_t slash = text.find('/');
  if (slash == std::string::npos) return std::nullopt;
  const auto bytes = address_bytes(text.substr(0, slash));
  if (!bytes) return std::nullopt;
  const auto bits = number(text.substr(slash + 1), static_cast<int>(8 * bytes->size()));
  return bits ? std::optional(Network{*bytes, *bits}) : std::nullopt;
}

}  // namespace

std::optional<HostPort> split_host_port(const std::string& text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) return std::nullopt;
  const auto port = number(text.substr(colon + 1), 65535);
  std::string host = text.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string::npos) {
    return std::nullopt;  // an IPv6 address without brackets: which part is the port?
  }
  return port ? std::optional(HostPort{host, *port}) : std::nullopt;
}

std::string join_host_port(const std::string& host, int port) {
  return host.find(':') == std::string::npos ? cat(host, ":", port) : cat("[", host, "]:", port);
}

bool is_loopback_host(const std::string& host) {
  return host == "localhost" || host == "::1" || (host.starts_with("127.") && is_numeric_host(host));
}

bool from_this_machine(std::string_view client, const std::string& listens) {
  constexpr std::string_view kMapped = "::ffff:";  // an IPv4 client of an IPv6 socket
  if (client.starts_with(kMapped)) client.remove_prefix(kMapped.size());
  return client == listens || is_loopback_host(std::string(client));
}

bool is_wildcard_host(const std::string& host) { return host == "0.0.0.0" || host == "::"; }

bool is_numeric_host(const std::string& host) { return address_bytes(host).has_value(); }

bool is_network(const std::string& text) { return parse_network(text).has_value(); }

bool in_network(const std::string& host, const std::string& network) {
  const auto address = address_bytes(host);
  const auto net = parse_network(network);
  if (!address || !net || address->size() != net->bytes.size()) return false;
  for (int bit = 0; bit < net->bits; ++bit) {
    const int mask = 0x80 >> (bit % 8);
    if (((*address)[bit / 8] ^ net->bytes[bit / 8]) & mask) return false;
  }
  return true;
}

}  // namespace baton::cli
