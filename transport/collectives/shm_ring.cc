#include "transport/collectives/shm_ring.h"

#include <algorithm>
#include <cstring>

#include "base/cat.h"

namespace baton {
namespace {

constexpr uint32_t kCapacity = ShmRegion::kRingBytes;
constexpr uint32_t kMask = kCapacity - 1;
static_assert((kCapacity & kMask) == 0);
// Published while a long message is under way, so that both ends copy at the same time.
constexpr uint32_t kStep = uint32_t{1} << 16;

struct Header {
  uint64_t bytes;
  uint64_t spare;
};

// How much of `want` bytes fits before the ring's end and into one step.
uint32_t piece_at(uint32_t position, size_t want) {
  const uint32_t to_end = kCapacity - (position & kMask);
  return static_cast<uint32_t>(std::min<size_t>({want, to_end, kStep}));
}

uint32_t padding(size_t bytes) { return static_cast<uint32_t>(-bytes & (sizeof(Header) - 1)); }

}  // namespace

ShmRingWriter::ShmRingWriter(ShmWatch& watch, int to)
    : watch_(&watch),
      head_(&watch.region().ring_head(watch.rank(), to)),
      ring_(watch.region().ring_bytes(watch.rank(), to)) {
  for (int r = 0; r < watch.size(); ++r)
    if (r != watch.rank() && (to == watch.rank() || r == to))
      tails_.emplace_back(r, &watch.region().ring_tail(watch.rank(), to, r));
}

absl::Status ShmRingWriter::write(std::span<const std::byte> message, Instant deadline) {
  const Header header{.bytes = message.size(), .spare = 0};
  RETURN_IF_ERROR(put(std::as_bytes(std::span(&header, 1)), deadline));
  RETURN_IF_ERROR(put(message, deadline));
  written_ += padding(message.size());  // headers never wrap
  publish();
  return absl::OkStatus();
}

absl::Status ShmRingWriter::put(std::span<const std::byte> bytes, Instant deadline) {
  while (!bytes.empty()) {
    const uint32_t n = piece_at(written_, bytes.size());
    RETURN_IF_ERROR(await_room(n, deadline));
    std::memcpy(ring_ + (written_ & kMask), bytes.data(), n);
    written_ += n;
    bytes = bytes.subspan(n);
    if (written_ - published_ >= kStep) publish();
  }
  return absl::OkStatus();
}

absl::Status ShmRingWriter::await_room(uint32_t bytes, Instant deadline) {
  const uint32_t want = written_ + bytes - kCapacity;
  for (const auto& [reader, tail] : tails_) {
    if (reached(tail->load(), want)) continue;
    publish();  // readers cannot make room for what they do not see
    RETURN_IF_ERROR(watch_->await(*tail, want, reader, deadline));
  }
  return absl::OkStatus();
}

void ShmRingWriter::publish() {
  if (published_ != written_) head_->publish(written_);
  published_ = written_;
}

ShmRingReader::ShmRingReader(ShmWatch& watch, int from, int to)
    : watch_(&watch),
      from_(from),
      head_(&watch.region().ring_head(from, to)),
      tail_(&watch.region().ring_tail(from, to, watch.rank())),
      ring_(watch.region().ring_bytes(from, to)) {}

absl::Status ShmRingReader::read(std::span<std::byte> message, Instant deadline) {
  Header header{};
  RETURN_IF_ERROR(get(std::as_writable_bytes(std::span(&header, 1)), deadline));
  if (header.bytes != message.size())
    return watch_->disagree(from_, cat("sent ", header.bytes, " bytes, want ", message.size()));
  RETURN_IF_ERROR(get(message, deadline));
  taken_ += padding(message.size());
  publish();
  return absl::OkStatus();
}

absl::Status ShmRingReader::get(std::span<std::byte> bytes, Instant deadline) {
  while (!bytes.empty()) {
    RETURN_IF_ERROR(watch_->await(*head_, taken_ + 1, from_, deadline));
    const uint32_t there = head_->load() - taken_;
    const uint32_t n = std::min(there, piece_at(taken_, bytes.size()));
    std::memcpy(bytes.data(), ring_ + (taken_ & kMask), n);
    taken_ += n;
    bytes = bytes.subspan(n);
    if (taken_ - published_ >= kStep) publish();
  }
  return absl::OkStatus();
}

void ShmRingReader::publish() {
  if (published_ != taken_) tail_->publish(taken_);
  published_ = taken_;
}

}  // namespace baton
