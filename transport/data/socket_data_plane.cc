#include "transport/data/socket_data_plane.h"

#include <utility>

#include "transport/data/framed_data_plane.h"
#include "transport/data/socket_links.h"

namespace baton::transport {

absl::StatusOr<std::unique_ptr<DataPlane>> make_socket_data_plane(const DataPlaneOptions& options) {
  RETURN_IF_ERROR(check_identity(options.identity));
  ASSIGN_OR_RETURN(auto links, SocketLinks::create(options.listen_host, options.listen_port, options.tls));
  ASSIGN_OR_RETURN(auto pool, SharedPool::create(options.pool_bytes, options.prefault_pool));
  // Where nothing would tell that bytes changed on their way they are copied.
  if (options.checksum) links->send_from({.descriptor = pool->descriptor(), .mapped = pool->file()});
  return std::make_unique<FramedDataPlane>(options, std::move(pool), std::move(links));
}

}  // namespace baton::transport
