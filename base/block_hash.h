#pragma once

#include <compare>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/ids.h"

namespace baton {

// The identity of a full KV block and all that precedes it: a chained, keyed 128-bit hash (SipHash-2-4-128,
// Aumasson and Bernstein 2012). hash(i) = SipHash(key, hash(i-1) || token ids of block i); hash(-1) is the
// hash of the tenant salt. The coordinator makes the key and hands it to every worker, so router and workers
// agree. A hit is only a candidate: the holder compares token ids as well.
struct BlockHash {
  uint64_t lo = 0;
  uint64_t hi = 0;
  friend constexpr auto operator<=>(const BlockHash&, const BlockHash&) = default;
  template <class H>
  friend H AbslHashValue(H h, const BlockHash& b) {
    return H::combine(std::move(h), b.lo, b.hi);
  }
};

struct HashKey {
  uint64_t k0 = 0;
  uint64_t k1 = 0;
  friend constexpr auto operator<=>(const HashKey&, const HashKey&) = default;
};

// The start of every chain of a tenant.
BlockHash root_hash(const HashKey& key, std::string_view tenant_salt);
BlockHash next_hash(const HashKey& key, const BlockHash& previous, std::span<const TokenId> block_tokens);
// Hashes of the full blocks of `tokens`: tokens.size() / block_tokens entries.
std::vector<BlockHash> chain_hashes(const HashKey& key, std::string_view tenant_salt,
                                    std::span<const TokenId> tokens, int block_tokens);

}  // namespace baton
