#include "transport/data/ucx_start.h"

#include <ifaddrs.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/cat.h"
#include "transport/data/socket_address.h"

namespace baton::transport {
namespace {

constexpr size_t kSegment = 1040 * 1024;  // 1 MiB, UCX's own headers and the largest frame head

// BBR holds bytes back by a timer that takes up the sender's core, unless a buffer holds them back first.
// Frames of 1 MiB over loopback: from 0.6 to 0.7 of a raw socket to 0.84 to 1.2 with these; under cubic they
// would cost a tenth (benchmarks/transfer).
constexpr std::string_view kSendBufferUnderBbr = "512k";
constexpr std::string_view kReceiveBufferUnderBbr = "2m";

bool bbr() {
  std::ifstream file("/proc/sys/net/ipv4/tcp_congestion_control");
  std::string name;
  return file >> name && name.starts_with("bbr");
}

struct Setting {
  const char* key;       // as UCX 1.13 knows it
  const char* variable;  // as a user sets it; the user wins
  std::string value;
};

absl::Status configure(ucp_config_t* config, const UcxWish& wish) {
  const bool tcp = wish.transports.find("tcp") != std::string::npos;
  const bool timed = tcp && bbr();
  const Setting settings[] = {
      {"TLS", "UCX_TLS", wish.transports},
      {"NET_DEVICES", "UCX_NET_DEVICES", wish.devices},
      {"TX_SEG_SIZE", "UCX_TCP_TX_SEG_SIZE", tcp ? cat(kSegment) : ""},
      {"RX_SEG_SIZE", "UCX_TCP_RX_SEG_SIZE", tcp ? cat(kSegment) : ""},
      {"SNDBUF", "UCX_TCP_SNDBUF", timed ? std::string(kSendBufferUnderBbr) : ""},
      {"RCVBUF", "UCX_TCP_RCVBUF", timed ? std::string(kReceiveBufferUnderBbr) : ""},
      // No zero-copy sends: one that meets a broken connection in sendmsg() is completed twice, and UCX's own
      // assertion ends the process (uct_tcp_ep_sendv, 1.13 to 1.22; tests/transport/data/ucx_links_test.cc).
      {"ZCOPY_THRESH", "UCX_ZCOPY_THRESH", tcp ? "inf" : ""},
      // A restarted worker gets its port back while old connections to it linger.
      {"CM_REUSEADDR", "UCX_TCP_CM_REUSEADDR", tcp ? "y" : ""},
      {"KEEPALIVE_INTERVAL", "UCX_KEEPALIVE_INTERVAL", "1s"},
      // Rendezvous over TCP would hand the receiver's address to the sender.
      {"RNDV_THRESH", "UCX_RNDV_THRESH", "inf"},
  };
  for (const Setting& s : settings) {
    if (s.value.empty() || std::getenv(s.variable)) continue;
    ucs_status_t status = ucp_config_modify(config, s.key, s.value.c_str());
    // 1.13 overlooks the transports' settings under their full names, 1.22 refuses short ones.
    if (status != UCS_OK)
      status = ucp_config_modify(config, s.variable + std::strlen("UCX_"), s.value.c_str());
    if (status != UCS_OK) return ucx_failed(s.variable, status);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ucx_failed(std::string_view what, ucs_status_t status) {
  return absl::UnavailableError(cat("UCX: ", what, ": ", ucs_status_string(status)));
}

absl::StatusOr<std::string> interface_of(const std::string& host) {
  ASSIGN_OR_RETURN(const SocketAddress address, parse_address(host, 0));
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) return absl::UnavailableError("getifaddrs failed");
  std::string name;
  for (const ifaddrs* i = all; i && name.empty(); i = i->ifa_next)
    if (same_host(address, i->ifa_addr)) name = i->ifa_name;
  ::freeifaddrs(all);
  if (name.empty())
    return absl::InvalidArgumentError(cat("data address ", host, ": no interface of this machine has it"));
  return name;
}

std::vector<std::string> rdma_devices(const std::string& interface, const std::string& net) {
  std::vector<std::string> out;
  const std::filesystem::path here = std::filesystem::path(net) / interface;
  int port = 0;  // counted from 0 there, from 1 by UCX
  std::ifstream(here / "dev_port") >> port;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(here / "device" / "infiniband", none))
    out.push_back(cat(entry.path().filename().string(), ":", port + 1));
  std::ranges::sort(out);
  return out;
}

absl::StatusOr<ucp_context_h> start_ucx(const UcxWish& wish) {
  ucp_config_t* config = nullptr;
  ucs_status_t status = ucp_config_read(nullptr, nullptr, &config);
  if (status != UCS_OK) return ucx_failed("configuration", status);
  const absl::Status configured = configure(config, wish);
  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_NAME;
  params.features = wish.features;
  params.name = "baton";
  ucp_context_h context = nullptr;
  status = configured.ok() ? ucp_init(&params, config, &context) : UCS_OK;
  ucp_config_release(config);
  RETURN_IF_ERROR(configured);
  if (status != UCS_OK)
    return ucx_failed(cat("start of ", wish.transports, " on interface ", wish.devices), status);
  return context;
}

absl::StatusOr<ucp_worker_h> start_ucx_worker(ucp_context_h context) {
  ucp_worker_params_t params{};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  params.thread_mode = UCS_THREAD_MODE_SINGLE;
  ucp_worker_h worker = nullptr;
  const ucs_status_t status = ucp_worker_create(context, &params, &worker);
  if (status != UCS_OK) return ucx_failed("worker", status);
  return worker;
}

}  // namespace baton::transport
