#pragma once

#include <ucp/api/ucp.h>

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

// Starting UCX, for the two lanes that use it.
namespace baton::transport {

absl::Status ucx_failed(std::string_view what, ucs_status_t status);

// The network interface that has this numeric address. UCX listens on every interface it is not kept from, so
// exactly one is named.
absl::StatusOr<std::string> interface_of(const std::string& host);

// The RDMA devices of an interface as UCX names them, "mlx5_0:1"; empty where there are none. `net`: where
// the kernel tells of interfaces.
std::vector<std::string> rdma_devices(const std::string& interface,
                                      const std::string& net = "/sys/class/net");

struct UcxWish {
  uint64_t features = 0;
  std::string transports;  // UCX_TLS
  std::string devices;     // UCX_NET_DEVICES
};
// A context with our settings; what a user set in the environment wins.
absl::StatusOr<ucp_context_h> start_ucx(const UcxWish& wish);
// A worker for one thread.
absl::StatusOr<ucp_worker_h> start_ucx_worker(ucp_context_h context);

}  // namespace baton::transport
