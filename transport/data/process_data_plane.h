#pragma once

#include <memory>

#include "transport/data/data_plane.h"

namespace baton::transport {

// The data plane between processes over the fabric that options.lanes names. UCX is started for `am`, `get`
// and where `auto` finds RDMA.
absl::StatusOr<std::unique_ptr<DataPlane>> make_process_data_plane(const DataPlaneOptions& options);

}  // namespace baton::transport
