#pragma once

#include <memory>

#include "transport/data/data_plane.h"
#include "transport/data/loopback_links.h"

namespace baton::transport {

// A data plane among the threads of one process, for tests: the same handshakes, lanes, landing and checksums
// as over UCX. Its stream lane is called "loopback".
absl::StatusOr<std::unique_ptr<DataPlane>> make_loopback_data_plane(LoopbackHub& hub,
                                                                    const DataPlaneOptions& options);

}  // namespace baton::transport
