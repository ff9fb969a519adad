#include "transport/data/ucx_data_plane.h"

#include <utility>

#include "base/cat.h"
#include "transport/data/framed_data_plane.h"
#include "transport/data/socket_links.h"
#include "transport/data/ucx_get_lane.h"
#include "transport/data/ucx_links.h"

namespace baton::transport {

namespace {

absl::Status refuse_without_checksums(const char* lane) {
  return absl::InvalidArgumentError(
      cat(lane,
          " needs checksums: nothing else tells a receiver that the sender has given its blocks away "
          "meanwhile. Set transfer.checksum: true, or use transport auto, local or socket"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<DataPlane>> make_ucx_data_plane(const DataPlaneOptions& options) {
  RETURN_IF_ERROR(check_identity(options.identity));
  if (options.tls) return absl::InvalidArgumentError("am has no TLS: use auto or socket");
  if (!options.checksum) return refuse_without_checksums("am");
  ASSIGN_OR_RETURN(auto links, UcxLinks::create(options.listen_host, options.listen_port));
  ASSIGN_OR_RETURN(auto pool, SharedPool::create(options.pool_bytes, options.prefault_pool));
  return std::make_unique<FramedDataPlane>(options, std::move(pool), std::move(links));
}

absl::StatusOr<std::unique_ptr<DataPlane>> make_get_data_plane(const DataPlaneOptions& options) {
  RETURN_IF_ERROR(check_identity(options.identity));
  ASSIGN_OR_RETURN(auto links, SocketLinks::create(options.listen_host, options.listen_port, options.tls));
  ASSIGN_OR_RETURN(auto pool, SharedPool::create(options.pool_bytes, options.prefault_pool));
  if (options.checksum) links->send_from({.descriptor = pool->descriptor(), .mapped = pool->file()});
  auto get = options.checksum
                 ? UcxGetLane::create({.host = options.listen_host, .emulate = options.lanes.emulate_get},
                                      pool->file())
                 : refuse_without_checksums("get");
  DataPlaneOptions with = options;
  PullLanes pulls;
  if (get.ok()) {
    with.lanes.get = true;
    pulls.lanes.push_back(*std::move(get));
  } else if (options.lanes.get) {
    return absl::UnavailableError(
        cat(get.status().message(), "; nothing else is safe on lane get: use auto or socket"));
  } else {
    pulls.missing = std::string(get.status().message());
  }
  return std::make_unique<FramedDataPlane>(with, std::move(pool), std::move(links), nullptr,
                                           std::move(pulls));
}

}  // namespace baton::transport
