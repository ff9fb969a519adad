#pragma once

#include "kernels/backend.h"
#include "worker/parallel/model_part.h"

namespace baton::worker {

// A model whose whole KV this is, and whose products can be cut by as many ranks as it has KV heads.
inline SplitModel model_with(const kernels::KvGeometry& g) {
  return {.layers = g.layers,
          .heads = 2 * g.kv_heads,
          .kv_heads = g.kv_heads,
          .head_dim = g.head_dim,
          .hidden = 960,
          .ffn = 960,
          .vocab = 512};
}

}  // namespace baton::worker
