#include "transport/data/loopback_data_plane.h"

#include <utility>

#include "transport/data/framed_data_plane.h"

namespace baton::transport {

absl::StatusOr<std::unique_ptr<DataPlane>> make_loopback_data_plane(LoopbackHub& hub,
                                                                    const DataPlaneOptions& options) {
  RETURN_IF_ERROR(check_identity(options.identity));
  ASSIGN_OR_RETURN(auto pool, SharedPool::create(options.pool_bytes, options.prefault_pool));
  return std::make_unique<FramedDataPlane>(options, std::move(pool), std::make_unique<LoopbackLinks>(hub));
}

}  // namespace baton::transport
