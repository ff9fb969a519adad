#include "transport/data/process_data_plane.h"

#include "transport/data/socket_data_plane.h"
#include "transport/data/ucx_data_plane.h"

namespace baton::transport {

absl::StatusOr<std::unique_ptr<DataPlane>> make_process_data_plane(const DataPlaneOptions& options) {
  return options.lanes.fabric == StreamFabric::kAm ? make_ucx_data_plane(options)
                                                   : make_socket_data_plane(options);
}

}  // namespace baton::transport
