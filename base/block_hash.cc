#include "base/block_hash.h"

#include <bit>
#include <cstring>

namespace baton {
namespace {

struct SipState {
  uint64_t v0, v1, v2, v3;

  void round() {
    v0 += v1;
    v1 = std::rotl(v1, 13) ^ v0;
    v0 = std::rotl(v0, 32);
    v2 += v3;
    v3 = std::rotl(v3, 16) ^ v2;
    v0 += v3;
    v3 = std::rotl(v3, 21) ^ v0;
    v2 += v1;
    v1 = std::rotl(v1, 17) ^ v2;
    v2 = std::rotl(v2, 32);
  }
  void absorb(uint64_t m) {
    v3 ^= m;
    round();
    round();
    v0 ^= m;
  }
};

BlockHash siphash128(const HashKey& key, std::span<const std::byte> head, std::span<const std::byte> tail) {
  SipState s{0x736f6d6570736575u ^ key.k0, 0x646f72616e646f6du ^ key.k1 ^ 0xee, 0x6c7967656e657261u ^ key.k0,
             0x7465646279746573u ^ key.k1};
  uint64_t word = 0;
  int filled = 0;
  for (auto part : {head, tail}) {
    for (std::byte b : part) {
      word |= static_cast<uint64_t>(b) << (8 * filled);
      if (++filled == 8) {
        s.absorb(word);
        word = 0;
        filled = 0;
      }
    }
  }
  s.absorb(word | static_cast<uint64_t>(head.size() + tail.size()) << 56);
  s.v2 ^= 0xee;
  for (int i = 0; i < 4; ++i) s.round();
  BlockHash out;
  out.lo = s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
  s.v1 ^= 0xdd;
  for (int i = 0; i < 4; ++i) s.round();
  out.hi = s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
  return out;
}

}  // namespace

BlockHash root_hash(const HashKey& key, std::string_view tenant_salt) {
  return siphash128(key, {}, std::as_bytes(std::span(tenant_salt)));
}

BlockHash next_hash(const HashKey& key, const BlockHash& previous, std::span<const TokenId> block_tokens) {
  return siphash128(key, std::as_bytes(std::span(&previous, 1)), std::as_bytes(block_tokens));
}

std::vector<BlockHash> chain_hashes(const HashKey& key, std::string_view tenant_salt,
                                    std::span<const TokenId> tokens, int block_tokens) {
  std::vector<BlockHash> out;
  out.reserve(tokens.size() / block_tokens);
  BlockHash h = root_hash(key, tenant_salt);
  for (size_t at = 0; at + block_tokens <= tokens.size(); at += block_tokens) {
    h = next_hash(key, h, tokens.subspan(at, block_tokens));
    out.push_back(h);
  }
  return out;
}

}  // namespace baton
