#include "transport/data/frames.h"

#include <optional>
#include <utility>

#include "base/cat.h"
#include "transport/data/byte_codec.h"

namespace baton::transport {
namespace {

constexpr uint32_t kMagic = 0x344e5442;  // "BTN4"
constexpr size_t kMaxName = 256;
constexpr size_t kMaxHash = 256;

// M is the message or const message, so that one description reads and writes.
template <class Codec, class M>
void describe_worker(Codec& c, M& m) {
  c.text(m.name, kMaxName);
  c.id(m.incarnation);
}

struct Describe {
  template <class Codec, class M>
  static void hello(Codec& c, M& m) {
    c.number(m.identity.protocol_version);
    describe_worker(c, m.identity.self);
    c.text(m.identity.host_id, kMaxHash);
    c.text(m.identity.kv_layout_hash, kMaxHash);
    c.text(m.identity.model_hash, kMaxHash);
    c.text(m.identity.numerics_id, kMaxHash);
    describe_worker(c, m.expected);
    c.number(m.lanes);
    c.number(m.checksum);
    c.number(m.pool.pid);
    c.number(m.pool.descriptor);
    for (auto& word : m.pool.nonce) c.number(word);
    c.number(m.pool.pool_bytes);
    c.number(m.probe_checksum);
    c.list(m.tickets, kMaxTickets, [](Codec& each, auto& ticket) {
      each.number(ticket.lane);
      each.text(ticket.text, kMaxTicket);
    });
  }
  template <class Codec, class M>
  static void offer(Codec& c, M& m) {
    c.number(m.cookie);
    c.number(m.lane);
    c.number(m.bytes);
    c.number(m.has_checksum);
    c.number(m.checksum);
    c.text(m.header, kMaxPieceHeader);
    c.list(m.runs, kMaxRuns, [](Codec& each, auto& run) {
      each.number(run.offset);
      each.number(run.bytes);
    });
  }
};

template <class Codec, class M>
void describe(Codec& c, M& m) {
  using T = std::remove_const_t<M>;
  if constexpr (std::is_same_v<T, HelloFrame>) {
    Describe::hello(c, m);
  } else if constexpr (std::is_same_v<T, OfferFrame>) {
    Describe::offer(c, m);
  } else if constexpr (std::is_same_v<T, RefuseFrame>) {
    c.number(m.code);
    c.text(m.reason, kMaxReason);
  } else if constexpr (std::is_same_v<T, PingFrame> || std::is_same_v<T, PongFrame>) {
    c.number(m.number);
  } else if constexpr (std::is_same_v<T, ProbeRequestFrame>) {
    c.number(m.bytes);
  } else if constexpr (std::is_same_v<T, ProbeFrame>) {
    c.number(m.index);
    c.number(m.checksum);
  } else if constexpr (std::is_same_v<T, LanesFrame>) {
    c.number(m.mask);
    c.text(m.detail, kMaxReason);
  } else if constexpr (std::is_same_v<T, LaneCheckedFrame>) {
    c.number(m.verified);
    c.number(m.bytes_per_second);
    c.text(m.detail, kMaxReason);
  } else if constexpr (std::is_same_v<T, AnswerFrame>) {
    c.number(m.cookie);
    c.number(m.code);
    c.text(m.reason, kMaxReason);
  }
}

// The frame kind on the wire is the index in FrameBody, which therefore only grows at its end.
template <size_t kIndex = 0>
std::optional<FrameBody> read_body(size_t kind, ByteReader& reader) {
  if constexpr (kIndex == std::variant_size_v<FrameBody>) {
    return std::nullopt;
  } else {
    if (kind != kIndex) return read_body<kIndex + 1>(kind, reader);
    std::variant_alternative_t<kIndex, FrameBody> body;
    describe(reader, body);
    return body;
  }
}

bool sane_lane(const FrameBody& body) {
  const auto* offer = std::get_if<OfferFrame>(&body);
  return !offer || offer->lane == Lane::kLocal || offer->lane == Lane::kStream || offer->lane == Lane::kGet;
}

}  // namespace

absl::Status check_identity(const DataIdentity& identity) {
  if (identity.self.name.empty() || identity.self.name.size() > kMaxName)
    return absl::InvalidArgumentError("data plane: the worker needs a name of 1 to 256 bytes");
  for (const std::string* part :
       {&identity.host_id, &identity.kv_layout_hash, &identity.model_hash, &identity.numerics_id})
    if (part->size() > kMaxHash)
      return absl::InvalidArgumentError(cat("data plane: more than 256 bytes of identity: ", *part));
  return absl::OkStatus();
}

std::string encode_frame(const Frame& frame) {
  ByteWriter writer;
  writer.number(kMagic);
  writer.number(static_cast<uint8_t>(frame.body.index()));
  writer.number(frame.number);
  std::visit([&](const auto& body) { describe(writer, body); }, frame.body);
  return writer.take();
}

absl::StatusOr<Frame> decode_frame(std::span<const std::byte> bytes) {
  ByteReader reader(bytes);
  uint32_t magic = 0;
  uint8_t kind = 0;
  Frame frame;
  reader.number(magic);
  reader.number(kind);
  reader.number(frame.number);
  if (!reader.ok() || magic != kMagic) return absl::InvalidArgumentError("frame: no header");
  auto body = read_body(kind, reader);
  if (!body) return absl::InvalidArgumentError("frame: unknown kind");
  if (!reader.complete() || !sane_lane(*body)) return absl::InvalidArgumentError("frame: malformed");
  frame.body = *std::move(body);
  return frame;
}

}  // namespace baton::transport
