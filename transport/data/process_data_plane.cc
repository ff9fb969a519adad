#include "transport/data/process_data_plane.h"

#include "transport/data/socket_data_plane.h"
#include "transport/data/ucx_data_plane.h"
#include "transport/data/ucx_start.h"

namespace baton::transport {

namespace {

bool has_rdma(const std::string& host) {
  const auto interface = interface_of(host);
  return interface.ok() && !rdma_devices(*interface).empty();
}

}  // namespace

absl::StatusOr<std::unique_ptr<DataPlane>> make_process_data_plane(const DataPlaneOptions& options) {
  const AllowedLanes& lanes = options.lanes;
  if (lanes.fabric == StreamFabric::kAm) return make_ucx_data_plane(options);
  if (lanes.get || (lanes.get_if_rdma && has_rdma(options.listen_host))) return make_get_data_plane(options);
  return make_socket_data_plane(options);
}

}  // namespace baton::transport
