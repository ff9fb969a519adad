#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/status.h"

namespace baton::transport {

using PoolNonce = std::array<uint64_t, 2>;

// How another process of this host finds a pool. Checked by PeerPool::map(): never trusted.
struct PoolTicket {
  uint64_t pid = 0;
  uint32_t descriptor = 0;
  PoolNonce nonce{};
  uint64_t pool_bytes = 0;
};

// Memory layout of a pool's file: one page with the nonce, the probe area that test transfers read, from
// kPoolStart the pool itself.
inline constexpr size_t kProbeStart = 4096;
inline constexpr size_t kProbeBytes = 1 << 20;
inline constexpr size_t kPoolStart = 2 << 20;
inline constexpr size_t kMaxPoolBytes = size_t{1} << 46;

// This worker's KV memory: an anonymous file (memfd) that cannot shrink, mapped shared. It has no name
// anywhere, so the last process that maps it takes it away with it, kill -9 included. Thread: any
// (immutable); the content is the owner's business. Owns: mapping and descriptor.
class SharedPool {
 public:
  static absl::StatusOr<std::unique_ptr<SharedPool>> create(size_t pool_bytes, bool prefault);
  ~SharedPool();
  SharedPool(const SharedPool&) = delete;
  SharedPool& operator=(const SharedPool&) = delete;

  std::span<std::byte> bytes() const { return {base_ + kPoolStart, pool_bytes_}; }
  std::span<const std::byte> probe() const { return {base_ + kProbeStart, kProbeBytes}; }
  // All of it, as it lies in the file.
  std::span<std::byte> file() const { return {base_, kPoolStart + pool_bytes_}; }
  // The file itself.
  int descriptor() const { return descriptor_; }
  PoolTicket ticket() const;

 private:
  SharedPool() = default;
  absl::Status map(size_t pool_bytes, bool prefault);
  int descriptor_ = -1;
  std::byte* base_ = nullptr;
  size_t pool_bytes_ = 0;
  PoolNonce nonce_{};
};

// A peer's pool, mapped read-only through a read-only descriptor. The file is sealed against shrinking, so a
// read cannot fault whatever its owner does, and it stays readable after its owner died. Thread: progress.
// Owns: the mapping. Errors: kUnavailable with the reason; nothing of the ticket is believed.
class PeerPool {
 public:
  static absl::StatusOr<std::unique_ptr<PeerPool>> map(const PoolTicket& ticket);
  ~PeerPool();
  PeerPool(const PeerPool&) = delete;
  PeerPool& operator=(const PeerPool&) = delete;

  std::span<const std::byte> bytes() const { return {base_ + kPoolStart, pool_bytes_}; }
  std::span<const std::byte> probe() const { return {base_ + kProbeStart, kProbeBytes}; }

 private:
  PeerPool(const std::byte* base, size_t pool_bytes) : base_(base), pool_bytes_(pool_bytes) {}
  const std::byte* base_;
  size_t pool_bytes_;
};

}  // namespace baton::transport
