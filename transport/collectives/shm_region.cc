#include "transport/collectives/shm_region.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/cat.h"
#include "base/check.h"

namespace baton {
namespace {

constexpr size_t kPage = 4096;

size_t pages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

// Byte offsets: page 0 has `broken`, then lines, ring counters, slots, rings.
size_t lines_at() { return kPage; }
size_t counters_at(int n) { return lines_at() + pages(sizeof(PhaseLine) * n); }
// A ring has one head and a tail for each rank (a ring to one rank uses one of them).
size_t counters_bytes(int n) { return pages(sizeof(RingCounter) * n * n * (n + 1)); }
size_t slots_at(int n) { return counters_at(n) + counters_bytes(n); }
size_t rings_at(int n) { return slots_at(n) + 2 * ShmRegion::kSlotBytes * n; }

absl::Status failed(const char* what) {
  return absl::ResourceExhaustedError(cat("shared memory of a group: ", what, ": ", std::strerror(errno)));
}

}  // namespace

size_t ShmRegion::bytes(int n) { return rings_at(n) + size_t{kRingBytes} * n * n; }

absl::StatusOr<std::shared_ptr<ShmRegion>> ShmRegion::create(int ranks) {
  BATON_CHECK(ranks >= 1 && ranks <= kMostRanks);
  OwnedFd file(::memfd_create("baton-group", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!file.valid()) return failed("memfd_create");
  if (::ftruncate(file.get(), static_cast<off_t>(bytes(ranks))) != 0) return failed("ftruncate");
  // Nobody can shrink what others have mapped.
  if (::fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) return failed("seal");
  return map(std::move(file), ranks);
}

absl::StatusOr<std::shared_ptr<ShmRegion>> ShmRegion::map(OwnedFd file, int ranks) {
  BATON_CHECK(ranks >= 1 && ranks <= kMostRanks);
  struct stat found{};
  if (::fstat(file.get(), &found) != 0) return failed("fstat");
  if (static_cast<size_t>(found.st_size) != bytes(ranks))
    return absl::FailedPreconditionError(
        cat("shared memory of a group of ", ranks, ": want ", bytes(ranks), " bytes, got ", found.st_size));
  void* at = ::mmap(nullptr, bytes(ranks), PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  if (at == MAP_FAILED) return failed("mmap");
  return std::shared_ptr<ShmRegion>(new ShmRegion(std::move(file), static_cast<std::byte*>(at), ranks));
}

ShmRegion::~ShmRegion() { ::munmap(base_, bytes(ranks_)); }

std::atomic<uint32_t>& ShmRegion::broken() { return *reinterpret_cast<std::atomic<uint32_t>*>(base_); }

PhaseLine& ShmRegion::line(int rank) { return reinterpret_cast<PhaseLine*>(base_ + lines_at())[rank]; }

std::byte* ShmRegion::slot(int rank, int parity) {
  return base_ + slots_at(ranks_) + kSlotBytes * (2 * static_cast<size_t>(rank) + parity);
}

RingCounter* ShmRegion::counters() const {
  return reinterpret_cast<RingCounter*>(base_ + counters_at(ranks_));
}

FutexWord& ShmRegion::ring_head(int from, int to) { return counters()[ring(from, to) * (ranks_ + 1)].count; }

FutexWord& ShmRegion::ring_tail(int from, int to, int reader) {
  return counters()[ring(from, to) * (ranks_ + 1) + 1 + reader].count;
}

std::byte* ShmRegion::ring_bytes(int from, int to) {
  return base_ + rings_at(ranks_) + kRingBytes * ring(from, to);
}

}  // namespace baton
