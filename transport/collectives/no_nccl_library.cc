#include "transport/collectives/nccl_library.h"

namespace baton {

absl::StatusOr<std::unique_ptr<NcclLibrary>> load_nccl() {
  return absl::UnimplementedError(
      "lane nccl: this build has no NCCL (./baton setup --cuda and then BATON_CUDA=on ./baton build make "
      "one)");
}

}  // namespace baton
