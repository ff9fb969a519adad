#pragma once

#include <memory>

#include "transport/data/data_plane.h"

namespace baton::transport {

// The data plane between processes. Its stream lane is `am`: eager active messages over TCP on the interface
// of `listen_host`. Errors: UCX cannot start, the address belongs to no interface, the port is taken, no
// memory, checksums are off (docs/adr/0004).
absl::StatusOr<std::unique_ptr<DataPlane>> make_ucx_data_plane(const DataPlaneOptions& options);

// Messages over our own TCP stream, and lane `get` beside it. options.lanes.get: an error where there is no
// RDMA (unless emulated) or checksums are off; else each pairing is told why it is not there.
absl::StatusOr<std::unique_ptr<DataPlane>> make_get_data_plane(const DataPlaneOptions& options);

}  // namespace baton::transport
