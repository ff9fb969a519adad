#pragma once

#include <memory>

#include "transport/data/data_plane.h"

namespace baton::transport {

// The data plane between processes without UCX. Its stream lane is `socket`: framed TCP between the addresses
// of `listen_host`. Errors: the address belongs to no interface, the port is taken, no memory.
absl::StatusOr<std::unique_ptr<DataPlane>> make_socket_data_plane(const DataPlaneOptions& options);

}  // namespace baton::transport
