#include "worker/engine/pages_ahead.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "base/check.h"

namespace baton::worker {
namespace {

constexpr size_t kTurnBytes = 128 << 10;

int64_t blocks_of(size_t bytes, size_t block_bytes) {
  return static_cast<int64_t>((bytes + block_bytes - 1) / block_bytes);
}

}  // namespace

PagesAhead::PagesAhead(std::span<std::byte> pool, const kernels::KvGeometry& geometry, size_t bytes_ahead)
    : pool_(pool),
      geometry_(geometry),
      ahead_(blocks_of(bytes_ahead, geometry.piece_bytes() * geometry.layers)),
      run_(blocks_of(kTurnBytes, geometry.piece_bytes())) {
  BATON_CHECK(pool.size() >= geometry.pool_bytes());
}

bool PagesAhead::take(int64_t used) {
  if (next_ < used) {
    next_ = used;
    layer_ = 0;
  }
  const int64_t end = std::min(used + ahead_, geometry_.blocks);
  if (over_ || next_ >= end) return false;
  const int64_t count = std::min(run_, geometry_.blocks - next_);
  over_ = !populate(geometry_.piece_offset(layer_, BlockId(static_cast<uint32_t>(next_))),
                    static_cast<size_t>(count) * geometry_.piece_bytes());
  if (++layer_ < geometry_.layers) return true;
  layer_ = 0;
  next_ += count;
  return true;
}

// Whole pages around the bytes; the pool's memory is the process's own, to the end of its last page.
bool PagesAhead::populate(size_t offset, size_t bytes) {
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  std::byte* from = pool_.data() + offset;
  const size_t before = reinterpret_cast<uintptr_t>(from) % page;
  const size_t pages = (before + bytes + page - 1) / page;
  return ::madvise(from - before, pages * page, MADV_POPULATE_WRITE) == 0;
}

}  // namespace baton::worker
