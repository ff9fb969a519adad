#include "transport/data/peer_pool.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <string_view>

#include "base/cat.h"
#include "base/rng.h"

namespace baton::transport {
namespace {

constexpr const char* kName = "baton-kv";

absl::Status failed(std::string_view what) {
  return absl::UnavailableError(cat("KV pool: ", what, ": ", std::strerror(errno)));
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

// Only a pool's file is ever opened: the ticket might name a device or a pipe.
absl::Status check_is_pool(const std::string& path) {
  char target[64] = {};
  const ssize_t n = ::readlink(path.c_str(), target, sizeof target - 1);
  if (n < 0) return failed(path);
  if (!std::string_view(target, static_cast<size_t>(n)).starts_with(cat("/memfd:", kName)))
    return absl::UnavailableError(cat("KV pool: ", path, " is not one"));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<SharedPool>> SharedPool::create(size_t pool_bytes, bool prefault) {
  if (pool_bytes == 0 || pool_bytes > kMaxPoolBytes)
    return absl::InvalidArgumentError(cat("KV pool: ", pool_bytes, " bytes"));
  std::unique_ptr<SharedPool> pool(new SharedPool);
  RETURN_IF_ERROR(pool->map(pool_bytes, prefault));
  return pool;
}

absl::Status SharedPool::map(size_t pool_bytes, bool prefault) {
  const size_t total = kPoolStart + pool_bytes;
  descriptor_ = ::memfd_create(kName, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (descriptor_ < 0) return failed("memfd_create");
  if (::ftruncate(descriptor_, static_cast<off_t>(total)) != 0) return failed("ftruncate");
  if (::fcntl(descriptor_, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    return failed("seal");
  void* base = ::mmap(nullptr, total, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor_, 0);
  if (base == MAP_FAILED) return failed("mmap");
  base_ = static_cast<std::byte*>(base);
  pool_bytes_ = pool_bytes;
  ::madvise(base_, total, MADV_HUGEPAGE);  // a hint: without it all works, with more page faults
  if (prefault && ::madvise(base_, total, MADV_POPULATE_WRITE) != 0)
    return failed(cat("taking ", total >> 20, " MiB"));
  if (::getrandom(nonce_.data(), sizeof nonce_, 0) != static_cast<ssize_t>(sizeof nonce_))
    return failed("getrandom");
  std::memcpy(base_, nonce_.data(), sizeof nonce_);
  Rng rng(nonce_[0]);
  for (size_t at = 0; at < kProbeBytes; at += 8) {
    const uint64_t word = rng.next();
    std::memcpy(base_ + kProbeStart + at, &word, 8);
  }
  return absl::OkStatus();
}

SharedPool::~SharedPool() {
  if (base_) ::munmap(base_, kPoolStart + pool_bytes_);
  if (descriptor_ >= 0) ::close(descriptor_);
}

PoolTicket SharedPool::ticket() const {
  return {.pid = static_cast<uint64_t>(::getpid()),
          .descriptor = static_cast<uint32_t>(descriptor_),
          .nonce = nonce_,
          .pool_bytes = pool_bytes_};
}

absl::StatusOr<std::unique_ptr<PeerPool>> PeerPool::map(const PoolTicket& ticket) {
  if (ticket.pool_bytes == 0 || ticket.pool_bytes > kMaxPoolBytes)
    return absl::UnavailableError("KV pool: impossible size");
  const std::string path = cat("/proc/", ticket.pid, "/fd/", ticket.descriptor);
  RETURN_IF_ERROR(check_is_pool(path));
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (file.get() < 0) return failed(path);
  const size_t total = kPoolStart + ticket.pool_bytes;
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) return failed("fstat");
  if (static_cast<uint64_t>(status.st_size) != total)
    return absl::UnavailableError("KV pool: not the size that was told");
  const int seals = ::fcntl(file.get(), F_GET_SEALS);
  if (seals < 0 || !(seals & F_SEAL_SHRINK)) return absl::UnavailableError("KV pool: may shrink");
  void* base = ::mmap(nullptr, total, PROT_READ, MAP_SHARED, file.get(), 0);
  if (base == MAP_FAILED) return failed("mmap of the peer's pool");
  std::unique_ptr<PeerPool> pool(new PeerPool(static_cast<const std::byte*>(base), ticket.pool_bytes));
  if (std::memcmp(base, ticket.nonce.data(), sizeof ticket.nonce) != 0)
    return absl::UnavailableError("KV pool: of another process (nonce)");
  return pool;
}

PeerPool::~PeerPool() { ::munmap(const_cast<std::byte*>(base_), kPoolStart + pool_bytes_); }

}  // namespace baton::transport
