#include <algorithm>

#include "kernels/backend.h"

namespace baton::kernels {

int k_shards_for(int kv_heads, int64_t cols) {
  for (int shards = std::min(kv_heads, 8); shards > 1; --shards)
    if (cols % (int64_t{64} * shards) == 0) return shards;
  return 1;
}

}  // namespace baton::kernels
