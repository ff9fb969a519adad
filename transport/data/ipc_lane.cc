#include "transport/data/ipc_lane.h"

#include "base/cat.h"
#include "transport/data/byte_codec.h"

namespace baton::transport {
namespace {

constexpr size_t kMaxText = 512;
// A pool is a power of two smaller than this; more would overflow sums of offsets.
constexpr uint64_t kMostPoolBytes = uint64_t{1} << 48;

template <class Codec, class Word>
void describe(Codec& c, Word& w)
  requires requires { w.message; }
{
  c.text(w.message, kMaxMessage);
}

template <class Codec, class Word>
void describe(Codec& c, Word& w)
  requires requires { w.host_id; }
{
  c.text(w.host_id, kMaxText);
  c.text(w.device_id, kMaxText);
  c.number(w.ipc);
  for (auto& word : w.pool.words) c.number(word);
  c.number(w.pool.pool_bytes);
  for (auto& word : w.pool.nonce) c.number(word);
}

template <class Codec, class Word>
void describe(Codec& c, Word& w)
  requires requires { w.mapped; }
{
  c.number(w.mapped);
  c.text(w.detail, kMaxText);
}

template <class Codec, class Word>
void describe(Codec& c, Word& w)
  requires requires { w.runs; }
{
  c.number(w.cookie);
  c.text(w.header, kMaxPieceHeader);
  c.list(w.runs, kMaxRuns, [](auto& codec, auto& run) {
    codec.number(run.offset);
    codec.number(run.bytes);
  });
}

template <class Codec, class Word>
void describe(Codec& c, Word& w)
  requires requires { w.reason; }
{
  c.number(w.cookie);
  c.number(w.code);
  c.text(w.reason, kMaxText);
}

template <size_t kIndex = 0>
bool read_kind(uint8_t kind, ByteReader& reader, DeviceWord& out) {
  if constexpr (kIndex < std::variant_size_v<DeviceWord>) {
    if (kind != kIndex) return read_kind<kIndex + 1>(kind, reader, out);
    describe(reader, out.emplace<kIndex>());
    return reader.complete();
  }
  return false;
}

}  // namespace

absl::StatusOr<std::shared_ptr<IpcPool>> IpcPool::map(kernels::Device& device,
                                                      const kernels::PoolHandle& handle) {
  if (handle.pool_bytes == 0 || handle.pool_bytes > kMostPoolBytes)
    return absl::InvalidArgumentError(cat("a peer's KV pool of ", handle.pool_bytes, " bytes"));
  ASSIGN_OR_RETURN(const std::byte* const pool, device.open_pool(handle));
  return std::shared_ptr<IpcPool>(new IpcPool(device, pool, handle.pool_bytes));
}

uint64_t OfferWord::bytes() const {
  uint64_t sum = 0;
  for (const PoolRun& run : runs) sum += run.bytes;
  return sum;
}

std::string encode_word(const DeviceWord& word) {
  ByteWriter writer;
  writer.number(static_cast<uint8_t>(word.index()));
  std::visit([&writer](const auto& w) { describe(writer, w); }, word);
  return writer.take();
}

absl::StatusOr<DeviceWord> decode_word(std::span<const std::byte> bytes) {
  ByteReader reader(bytes);
  uint8_t kind = 0;
  reader.number(kind);
  DeviceWord word;
  if (read_kind(kind, reader, word)) return word;
  return absl::InvalidArgumentError(
      cat("a word of ", bytes.size(), " bytes, kind ", int{kind}, ", is malformed"));
}

}  // namespace baton::transport
