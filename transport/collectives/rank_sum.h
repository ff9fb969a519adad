#pragma once

#include <cstddef>
#include <span>

namespace baton {

// out[i] = the sum over ranks r of parts[r][i], added by the fixed tree of docs/adr/0005 (split at the
// largest power of two below the number of ranks, add the halves): for 5 ranks ((p0 + p1) + (p2 + p3)) + p4.
// The same bits wherever it is computed. `out` overlaps none of `parts`, each of `count` floats. At most 64
// ranks.
void rank_sum(std::span<const float* const> parts, float* out, size_t count);

}  // namespace baton
