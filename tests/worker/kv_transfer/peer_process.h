#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>

#include "kernels/backend.h"
#include "tests/support/test_certificates.h"
#include "transport/data/lanes.h"

// What the killed process and its survivor agree on.
namespace baton::worker {

// 16 KiB pieces, 24 blocks a prompt, 8 layers: 3 MiB a transfer.
inline kernels::KvGeometry process_geometry() {
  return {.layers = 8, .kv_heads = 4, .head_dim = 64, .block_tokens = 16, .blocks = 4 * 24};
}
// `get` without RDMA is for tests: a reader's own handling of a peer that is lost is the same.
inline transport::AllowedLanes lanes_of(const std::string& lane) {
  return *transport::parse_lanes(lane == "get" ? "get-emulated" : lane == "socket-tls" ? "socket" : lane);
}
inline std::optional<transport::StreamSecurity> security_of(const std::string& lane) {
  if (lane != "socket-tls") return std::nullopt;
  return TestCertificates::get().as("worker");
}

inline constexpr int kSlots = 4;  // transfers at a time, each with blocks of its own
inline constexpr int32_t kPrompt = 24 * 16 - 5;
inline constexpr uint32_t kSlotBlocks = 24;

// The content of a piece is a function of transfer, layer and prompt block.
inline uint64_t piece_word(uint64_t transfer, int layer, uint32_t block, size_t index) {
  uint64_t x = transfer * 0x9E3779B97F4A7C15u + static_cast<uint64_t>(layer) * 0xBF58476D1CE4E5B9u +
               block * 0x94D049BB133111EBu + index;
  x ^= x >> 29;
  return x * 0xD6E8FEB86659FD93u;
}
inline void fill_piece(std::byte* piece, size_t bytes, uint64_t transfer, int layer, uint32_t block) {
  for (size_t i = 0; i < bytes / 8; ++i) {
    const uint64_t word = piece_word(transfer, layer, block, i);
    std::memcpy(piece + 8 * i, &word, 8);
  }
}
inline bool piece_is(const std::byte* piece, size_t bytes, uint64_t transfer, int layer, uint32_t block) {
  for (size_t i = 0; i < bytes / 8; ++i) {
    const uint64_t word = piece_word(transfer, layer, block, i);
    if (std::memcmp(piece + 8 * i, &word, 8) != 0) return false;
  }
  return true;
}

}  // namespace baton::worker
