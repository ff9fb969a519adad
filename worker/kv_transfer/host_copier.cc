#include "worker/kv_transfer/host_copier.h"

#include <sys/mman.h>

#include <utility>

#include "base/cat.h"
#include "base/check.h"
#include "base/log.h"
#include "base/units.h"
#include "kernels/host_stream.h"
#include "transport/data/device_copier.h"

namespace baton::worker {
namespace {

// More than the engine ever has under way: HostTier::kMostOut and one for each waiting sequence.
constexpr size_t kMostOrders = 65536;
// Between two looks at a copy that a GPU does. A block of a large model takes some hundred microseconds.
constexpr auto kLook = std::chrono::microseconds(20);

}  // namespace

absl::StatusOr<std::unique_ptr<HostCopier>> HostCopier::make(const HostCopierOptions& options,
                                                             const Clock& clock, HostCopiedSink sink) {
  BATON_CHECK(options.slots > 0);
  const size_t bytes = slot_bytes(options.geometry) * static_cast<size_t>(options.slots);
  void* at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED)
    return absl::ResourceExhaustedError(
        cat("no ", format_bytes(bytes), " of host memory for KV blocks: lower kv.hostMemory"));
  ::madvise(at, bytes, MADV_HUGEPAGE);  // a hint
  std::unique_ptr<kernels::DeviceStream> stream = std::make_unique<kernels::HostStream>();
  if (options.device != nullptr) {
    auto made = options.device->make_stream();
    if (!made.ok()) {
      ::munmap(at, bytes);
      return made.status();
    }
    stream = *std::move(made);
  }
  const std::span<std::byte> memory(static_cast<std::byte*>(at), bytes);
  return std::unique_ptr<HostCopier>(
      new HostCopier(options, memory, std::move(stream), clock, std::move(sink)));
}

HostCopier::HostCopier(const HostCopierOptions& options, std::span<std::byte> memory,
                       std::unique_ptr<kernels::DeviceStream> stream, const Clock& clock, HostCopiedSink sink)
    : options_(options),
      memory_(memory),
      stream_(std::move(stream)),
      clock_(clock),
      sink_(std::move(sink)),
      orders_(kMostOrders) {
  if (options.device != nullptr) pinned_.emplace(*options.device, memory);
}

HostCopier::~HostCopier() {
  pinned_.reset();
  ::munmap(memory_.data(), memory_.size());
}

void HostCopier::copy(HostCopy copy) {
  BATON_CHECK(orders_.post(std::move(copy)) || orders_.closed(), "the engine has too many copies under way");
}

void HostCopier::run(const std::stop_token& stop) {
  std::vector<HostCopy> orders;
  while (!stop.stop_requested() && !orders_.closed()) {
    orders_.wait_until(kNever);
    orders.clear();
    orders_.drain(orders);
    for (const HostCopy& order : orders) {
      if (orders_.closed()) return;
      const absl::Status moved = move(order);
      sink_({.id = order.id, .error = moved.ok() ? "" : std::string(moved.message())});
    }
  }
}

absl::Status HostCopier::move(const HostCopy& order) {
  RETURN_IF_ERROR(broken_);
  broken_ = enqueue(order);
  // What was enqueued is waited for even when the rest of it could not be.
  if (const absl::Status ended = transport::await_copies(*stream_, clock_, kLook); broken_.ok())
    broken_ = ended;
  if (!broken_.ok()) log_error("KV is not kept in host memory any more", {{"why", broken_.ToString()}});
  return broken_;
}

absl::Status HostCopier::enqueue(const HostCopy& order) {
  const kernels::KvGeometry& g = options_.geometry;
  for (const auto& [block, slot] : order.blocks) {
    const size_t place = slot.value() * slot_bytes(g);
    BATON_CHECK(block.value() < g.blocks && slot.value() < options_.slots);
    if (pinned_) RETURN_IF_ERROR(pinned_->pin(place, slot_bytes(g)));
    for (int layer = 0; layer < g.layers; ++layer) {
      std::byte* host = memory_.data() + place + layer * g.piece_bytes();
      std::byte* pool = options_.pool.data() + g.piece_offset(layer, block);
      RETURN_IF_ERROR(stream_->copy(order.out ? host : pool, order.out ? pool : host, g.piece_bytes()));
    }
  }
  return absl::OkStatus();
}

}  // namespace baton::worker
