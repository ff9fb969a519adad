#include "cli/cluster/worker_address.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "base/cat.h"
#include "cli/cluster/host_address.h"
#include "cli/cluster/rank_place.h"

namespace baton::cli {
namespace {

constexpr const char* kLoopback = "127.0.0.1";
constexpr const char* kAnyPort = "9";  // of a datagram that is never sent: only the route is looked up

std::string numeric(const sockaddr* address, socklen_t size) {
  char host[NI_MAXHOST];
  if (::getnameinfo(address, size, host, sizeof host, nullptr, 0, NI_NUMERICHOST) != 0) return "";
  return host;
}

absl::StatusOr<std::string> source_of(const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  if (const int error = ::getaddrinfo(host.c_str(), kAnyPort, &hints, &found); error != 0)
    return absl::UnavailableError(cat(host, ": ", ::gai_strerror(error)));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> all(found, ::freeaddrinfo);
  std::string why = "no address";
  for (const addrinfo* a = found; a != nullptr; a = a->ai_next) {
    const int fd = ::socket(a->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    sockaddr_storage own{};
    socklen_t size = sizeof own;
    const bool good = fd >= 0 && ::connect(fd, a->ai_addr, a->ai_addrlen) == 0 &&
                      ::getsockname(fd, reinterpret_cast<sockaddr*>(&own), &size) == 0;
    if (!good) why = std::strerror(errno);
    if (fd >= 0) ::close(fd);
    if (good) return numeric(reinterpret_cast<sockaddr*>(&own), size);
  }
  return absl::UnavailableError(cat("no way to ", host, ": ", why));
}

std::vector<std::string> own_addresses() {
  std::vector<std::string> out;
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return out;
  for (const ifaddrs* i = list; i != nullptr; i = i->ifa_next) {
    if (i->ifa_addr == nullptr) continue;
    const int family = i->ifa_addr->sa_family;
    if (family != AF_INET && family != AF_INET6) continue;
    out.push_back(numeric(i->ifa_addr, family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6)));
  }
  ::freeifaddrs(list);
  return out;
}

// "HOST" or "HOST:PORT" of a flag.
absl::StatusOr<HostPort> parse_flag(const char* flag, const std::string& text) {
  if (is_numeric_host(text)) return HostPort{text, 0};
  const auto both = split_host_port(text);
  if (both && is_numeric_host(both->host)) return *both;
  return absl::InvalidArgumentError(
      cat(flag, " ", text, ": want an address of this machine, with or without :port"));
}

// One choice of addresses for one process.
class Choice {
 public:
  Choice(const AddressQuestion& question, const LocalNetwork& network) : q_(question), network_(network) {}
  absl::StatusOr<WorkerAddresses> make() {
    WorkerAddresses out;
    ASSIGN_OR_RETURN(const HostPort control, control_address());
    out.control_listen = join_host_port(control.host, control.port);
    ASSIGN_OR_RETURN(out.control_host, told_host(control.host));
    ASSIGN_OR_RETURN(const HostPort data, data_address(control.host));
    out.data_host = data.host;
    out.data_port = data.port;
    ASSIGN_OR_RETURN(const HostPort metrics, metrics_address());
    out.metrics_listen = join_host_port(metrics.host, metrics.port);
    ASSIGN_OR_RETURN(out.metrics_host, is_wildcard_host(metrics.host)
                                           ? towards_the_others()
                                           : absl::StatusOr<std::string>(metrics.host));
    RETURN_IF_ERROR(check(control.host, data.host));
    return out;
  }

 private:
  int port(int first) const { return first == 0 ? 0 : first + q_.number; }

  // Where packets to the coordinator, or to rank 0, leave this machine.
  absl::StatusOr<std::string> towards_the_others() const {
    const std::string& target = q_.join.empty() && !stays_on_host(q_.rendezvous) ? q_.rendezvous : q_.join;
    const auto other = split_host_port(target);
    if (!other || is_loopback_host(other->host)) return kLoopback;
    auto source = network_.source_of(other->host);
    if (!source.ok())
      return absl::Status(source.status().code(),
                          cat("which address of this machine do others reach? The route to ", target,
                              " would say, but: ", std::string(source.status().message()),
                              ". Check the name and the network, or give --listen ADDRESS"));
    return source;
  }

  // The address of this machine that an entry of `network` means.
  absl::StatusOr<std::string> own(const char* key, const std::string& entry) const {
    const std::vector<std::string> have = network_.addresses();
    const auto fits = [&](const std::string& a) {
      return is_network(entry) ? in_network(a, entry) : a == entry;
    };
    if (const auto found = std::ranges::find_if(have, fits); found != have.end()) return *found;
    if (is_wildcard_host(entry) || is_loopback_host(entry)) return entry;
    return absl::InvalidArgumentError(cat("network.", key, " ", entry,
                                          ": this machine has no such address; it has ", join(have, ", "),
                                          ". A network like 10.0.0.0/24 fits all machines in it"));
  }

  absl::StatusOr<HostPort> control_address() const {
    if (!q_.listen.empty()) return parse_flag("--listen", q_.listen);
    HostPort out{.port = port(q_.network.control_port)};
    ASSIGN_OR_RETURN(out.host,
                     q_.network.control.empty() ? towards_the_others() : own("control", q_.network.control));
    return out;
  }

  absl::StatusOr<std::string> told_host(const std::string& listens) const {
    if (!q_.advertise.empty()) return q_.advertise;
    return is_wildcard_host(listens) ? towards_the_others() : listens;
  }

  absl::StatusOr<HostPort> data_address(const std::string& control) const {
    if (!q_.data.empty()) {
      ASSIGN_OR_RETURN(const HostPort data, parse_flag("--data", q_.data));
      if (is_wildcard_host(data.host))
        return absl::InvalidArgumentError(
            cat("--data ", q_.data, ": want one address: KV comes from where the worker says it is"));
      return data;
    }
    HostPort out{.port = port(q_.network.data_port)};
    ASSIGN_OR_RETURN(out.host, !q_.network.data.empty()    ? own("data", q_.network.data)
                               : is_wildcard_host(control) ? towards_the_others()
                                                           : absl::StatusOr<std::string>(control));
    return out;
  }

  absl::StatusOr<HostPort> metrics_address() const {
    HostPort out{.host = kLoopback, .port = port(q_.network.metrics_port)};
    if (!q_.metrics.empty()) {
      ASSIGN_OR_RETURN(out, parse_flag("--metrics", q_.metrics));
    } else if (!q_.network.metrics.empty()) {
      ASSIGN_OR_RETURN(out.host, own("metrics", q_.network.metrics));
    }
    if (is_loopback_host(out.host) || q_.network.insecure_metrics) return out;
    return absl::FailedPreconditionError(cat(
        "metrics would be readable on ", out.host,
        ": set network.insecureAllowPlaintextMetricsOffLoopback: true in the pool if that is what you want"));
  }

  absl::Status check(const std::string& control, const std::string& data) const {
    if (!is_loopback_host(control) && !q_.join.empty() && !q_.control_protected)
      return absl::FailedPreconditionError(
          cat("the control connection would listen on ", control,
              ", which other machines reach, without TLS: give control.tls in the manifest "
              "(docs/multi_host.md), or set control.insecureAllowPlaintextOffLoopback: true if the network "
              "is private"));
    if (!is_loopback_host(data) && !q_.data_protected)
      return absl::FailedPreconditionError(
          cat("KV would listen on ", data,
              ", which other machines reach, and KV travels without TLS: give control.tls in the manifest "
              "(with transport auto or socket), or set transfer.insecureAllowPlaintextOffLoopback: true if "
              "that network is private, or give --data 127.0.0.1 if this worker hands nothing over to other "
              "machines"));
    return absl::OkStatus();
  }

  const AddressQuestion& q_;
  const LocalNetwork& network_;
};

}  // namespace

LocalNetwork local_network() { return {.source_of = source_of, .addresses = own_addresses}; }

absl::StatusOr<WorkerAddresses> choose_addresses(const AddressQuestion& question,
                                                 const LocalNetwork& network) {
  return Choice(question, network).make();
}

}  // namespace baton::cli
