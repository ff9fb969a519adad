#include "worker/kv_transfer/kv_wire.h"

#include <optional>
#include <type_traits>
#include <utility>

#include "worker/kv_transfer/kv_codec.h"

namespace baton::worker {
namespace {

using transport::ByteReader;
using transport::ByteWriter;

constexpr int kMaxPartEnd = 1 << 16;  // layers or heads of a model

const auto kNumber = [](auto& codec, auto& value) { codec.number(value); };
const auto kId = [](auto& codec, auto& value) { codec.id(value); };

template <class Codec, class M>
void describe_message(Codec& c, M& m) {
  using T = std::remove_const_t<M>;
  if constexpr (std::is_same_v<T, KvGrantMessage>) {
    c.id(m.transfer);
    c.number(m.first_block);
    c.number(m.prompt_tokens);
    c.list(m.generations, kMaxGrantBlocks, kNumber);
    describe(c, m.part);
  } else if constexpr (std::is_same_v<T, KvFinishMessage>) {
    c.id(m.transfer);
    describe(c, m.first_token);
    c.number(m.finish);
  } else if constexpr (std::is_same_v<T, KvEndMessage>) {
    c.id(m.transfer);
    c.number(m.from);
    c.number(m.ok);
    c.text(m.reason, kMaxEndReason);
  } else if constexpr (std::is_same_v<T, KvRenewMessage>) {
    c.number(m.from);
    c.list(m.transfers, kMaxRenewals, kId);
  } else {
    c.id(m.transfer);
    c.number(m.layer);
    c.number(m.first_block);
    c.list(m.generations, kMaxPieceBlocks, kNumber);
  }
}

// The kind on the wire is the index in KvMessage.
template <size_t kIndex = 0>
std::optional<KvMessage> read_message(size_t kind, ByteReader& reader) {
  if constexpr (kIndex == std::variant_size_v<KvMessage>) {
    return std::nullopt;
  } else {
    if (kind != kIndex) return read_message<kIndex + 1>(kind, reader);
    std::variant_alternative_t<kIndex, KvMessage> message;
    describe_message(reader, message);
    return message;
  }
}

bool sane(const KvMessage& message) {
  const auto side_ok = [](KvSide side) { return side == KvSide::kSource || side == KvSide::kSink; };
  if (const auto* grant = std::get_if<KvGrantMessage>(&message)) {
    const KvPart& part = grant->part;
    return !part.empty() && part.first_layer >= 0 && part.first_head >= 0 && part.end_layer <= kMaxPartEnd &&
           part.end_head <= kMaxPartEnd;
  }
  if (const auto* end = std::get_if<KvEndMessage>(&message)) return side_ok(end->from);
  if (const auto* renew = std::get_if<KvRenewMessage>(&message)) return side_ok(renew->from);
  if (const auto* finish = std::get_if<KvFinishMessage>(&message))
    return finish->finish <= FinishReason::kError;
  return true;
}

}  // namespace

std::string encode(const KvMessage& message) {
  ByteWriter writer;
  writer.number(static_cast<uint8_t>(message.index()));
  std::visit([&](const auto& m) { describe_message(writer, m); }, message);
  return writer.take();
}

absl::StatusOr<KvMessage> decode_message(std::span<const std::byte> bytes) {
  ByteReader reader(bytes);
  uint8_t kind = 0;
  reader.number(kind);
  auto message = read_message(kind, reader);
  if (!message || !reader.complete() || !sane(*message))
    return absl::InvalidArgumentError("KV message: malformed");
  return *std::move(message);
}

std::string encode(const KvPieceHeader& header) {
  ByteWriter writer;
  describe_message(writer, header);
  return writer.take();
}

absl::StatusOr<KvPieceHeader> decode_piece_header(std::span<const std::byte> bytes) {
  ByteReader reader(bytes);
  KvPieceHeader header;
  describe_message(reader, header);
  if (!reader.complete()) return absl::InvalidArgumentError("KV piece: malformed header");
  return header;
}

TransferId piece_transfer(std::span<const std::byte> header) {
  ByteReader reader(header);
  TransferId transfer;
  reader.id(transfer);
  return transfer;
}

}  // namespace baton::worker
