#include "worker/kv_transfer/kv_orders.h"

#include <charconv>
#include <optional>
#include <type_traits>
#include <utility>

#include "absl/strings/str_split.h"
#include "base/cat.h"
#include "transport/data/byte_codec.h"
#include "worker/kv_transfer/kv_codec.h"
#include "worker/kv_transfer/kv_wire.h"

namespace baton::worker {
namespace {

using transport::ByteReader;
using transport::ByteWriter;

// First bytes. The kinds of KvMessage are small numbers.
constexpr uint8_t kOrder = 0x40;
constexpr uint8_t kNote = 0x41;
// Kinds of notes that are no event.
constexpr uint8_t kReportNote = std::variant_size_v<KvEvent>;
constexpr uint8_t kPaceNote = kReportNote + 1;
constexpr uint8_t kCopiedNote = kPaceNote + 1;
constexpr size_t kMaxText = 4096;
constexpr size_t kMaxAddress = 4096;
constexpr int32_t kMaxLayers = 1 << 16;

bool parse_number(std::string_view text, int32_t& out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc{} && end == text.data() + text.size();
}

// "1x2", "1x2/16+14"
bool parse_shape(const std::string& text, ParallelShape& out) {
  const std::vector<std::string> halves = absl::StrSplit(text, '/');
  const std::vector<std::string> sizes = absl::StrSplit(halves[0], 'x');
  const auto number = [](std::string_view word, int32_t most, int32_t& value) {
    return parse_number(word, value) && value >= 1 && value <= most;
  };
  if (sizes.size() != 2 || halves.size() > 2 || !number(sizes[0], kMaxGroupRanks, out.tensor) ||
      !number(sizes[1], kMaxGroupRanks, out.pipeline))
    return false;
  if (halves.size() == 1) return true;
  const std::vector<std::string> numbers = absl::StrSplit(halves[1], '+');
  for (const std::string& word : numbers) {
    out.stage_layers.push_back(0);
    if (!number(word, kMaxLayers, out.stage_layers.back())) return false;
  }
  return out.stage_layers.size() == static_cast<size_t>(out.pipeline);
}

const auto kLink = [](auto& c, auto& link) {
  describe(c, link.peer);
  describe(c, link.part);
};
const auto kRef = [](auto& c, auto& ref) { describe(c, ref); };

template <class Codec, class Duty>
void describe_duty(Codec& c, Duty& duty) {
  c.id(duty.transfer);
  c.id(duty.request);
  c.number(duty.prompt_tokens);
  c.list(duty.blocks, kMaxOrderBlocks, [](auto& each, auto& block) { each.id(block); });
}

template <class Codec, class M>
void describe_order(Codec& c, M& m) {
  using T = std::remove_const_t<M>;
  if constexpr (std::is_same_v<T, KvExpectOrder>) {
    describe_duty(c, m.grant);
    c.list(m.grant.generations, kMaxOrderBlocks, [](auto& each, auto& value) { each.number(value); });
    c.number(m.grant.first_block);
    c.list(m.links, kMaxGroupRanks, kLink);
  } else if constexpr (std::is_same_v<T, KvSendOrder>) {
    describe_duty(c, m.send);
    describe(c, m.send.destination);
    c.list(m.links, kMaxGroupRanks, kLink);
  } else if constexpr (std::is_same_v<T, KvFinishOrder>) {
    c.id(m.transfer);
    describe(c, m.first_token);
    c.number(m.finish);
  } else if constexpr (std::is_same_v<T, KvConnectOrder>) {
    c.list(m.peers, kMaxGroupRanks, kRef);
    c.list(m.addresses, kMaxGroupRanks, [](auto& each, auto& text) { each.text(text, kMaxAddress); });
  } else if constexpr (std::is_same_v<T, KvFenceOrder>) {
    describe(c, m.worker);
    c.number(m.ranks);
  } else if constexpr (std::is_same_v<T, KvCopyOrder>) {
    c.id(m.copy.id);
    c.number(m.copy.out);
    c.list(m.copy.blocks, kMaxOrderBlocks, [](auto& each, auto& one) {
      each.id(one.block);
      each.id(one.slot);
    });
  } else {
    c.id(m.transfer);
  }
}

template <class Codec, class R>
void describe_report(Codec& c, R& r) {
  c.id(r.transfer);
  c.id(r.request);
  c.number(r.ok);
  c.text(r.error, kMaxText);
  c.number(r.bytes);
  describe(c, r.duration);
  describe(c, r.exposed);
  c.text(r.lane, kMaxText);
}

template <class Codec, class M>
void describe_event(Codec& c, M& m) {
  using T = std::remove_const_t<M>;
  if constexpr (std::is_same_v<T, KvLanded>) {
    c.id(m.transfer);
    describe(c, m.first_token);
    c.number(m.finish);
    describe_report(c, m.report);
  } else if constexpr (std::is_same_v<T, KvFailed>) {
    c.id(m.transfer);
    c.text(m.reason, kMaxText);
    describe_report(c, m.report);
  } else if constexpr (std::is_same_v<T, KvDrained>) {
    c.id(m.transfer);
    c.number(m.as_source);
    c.text(m.error, kMaxText);
  } else {
    describe(c, m.peer);
    c.number(m.connected);
    c.text(m.lane, kMaxText);
    c.text(m.error, kMaxText);
    c.number(m.bytes_per_second);
    describe(c, m.latency);
    c.number(m.over);
  }
}

template <class Codec, class M>
void describe_pace(Codec& c, M& m) {
  describe(c, m.worker);
  c.number(m.bytes_per_second);
}

template <class Codec, class M>
void describe_copied(Codec& c, M& m) {
  c.id(m.id);
  c.text(m.error, kMaxText);
}

// The alternative of number `kind`, read by `each`.
template <class Variant, size_t kIndex = 0, class Each>
std::optional<Variant> read_one(size_t kind, ByteReader& reader, Each each) {
  if constexpr (kIndex == std::variant_size_v<Variant>) {
    return std::nullopt;
  } else {
    if (kind != kIndex) return read_one<Variant, kIndex + 1>(kind, reader, each);
    std::variant_alternative_t<kIndex, Variant> value;
    each(reader, value);
    return value;
  }
}

ByteWriter begin(uint8_t kind, const KvGroupKey& key) {
  ByteWriter writer;
  writer.number(kind);
  for (const uint64_t word : key) writer.number(word);
  return writer;
}

// The message is of this kind and this group.
bool opens(ByteReader& reader, uint8_t kind, const KvGroupKey& key) {
  uint8_t said = 0;
  KvGroupKey theirs{};
  reader.number(said);
  for (uint64_t& word : theirs) reader.number(word);
  return said == kind && theirs == key;
}

bool sane(const KvOrder& order) {
  if (const auto* connect = std::get_if<KvConnectOrder>(&order))
    return connect->peers.size() == connect->addresses.size();
  if (const auto* fence = std::get_if<KvFenceOrder>(&order))
    return fence->ranks >= 1 && fence->ranks <= kMaxGroupRanks;
  if (const auto* finish = std::get_if<KvFinishOrder>(&order)) return finish->finish <= FinishReason::kError;
  return true;
}

}  // namespace

bool is_group_message(std::span<const std::byte> bytes) {
  return !bytes.empty() && (bytes[0] == std::byte{kOrder} || bytes[0] == std::byte{kNote});
}

std::string encode(const KvGroupKey& key, const KvOrder& order) {
  ByteWriter writer = begin(kOrder, key);
  writer.number(static_cast<uint8_t>(order.index()));
  std::visit([&](const auto& m) { describe_order(writer, m); }, order);
  return writer.take();
}

std::string encode(const KvGroupKey& key, const KvNote& note) {
  ByteWriter writer = begin(kNote, key);
  if (const auto* stream = std::get_if<KvStreamNote>(&note)) {
    writer.number(static_cast<uint8_t>(stream->event.index()));
    describe(writer, stream->peer);
    std::visit([&](const auto& m) { describe_event(writer, m); }, stream->event);
  } else if (const auto* report = std::get_if<PeerReport>(&note)) {
    writer.number(kReportNote);
    describe_event(writer, *report);
  } else if (const auto* pace = std::get_if<KvPaceNote>(&note)) {
    writer.number(kPaceNote);
    describe_pace(writer, *pace);
  } else {
    writer.number(kCopiedNote);
    describe_copied(writer, std::get<HostCopied>(note));
  }
  return writer.take();
}

absl::StatusOr<KvOrder> decode_order(const KvGroupKey& key, std::span<const std::byte> bytes) {
  ByteReader reader(bytes);
  uint8_t kind = 0;
  std::optional<KvOrder> order;
  if (opens(reader, kOrder, key)) {
    reader.number(kind);
    order = read_one<KvOrder>(kind, reader, [](auto& c, auto& m) { describe_order(c, m); });
  }
  if (!order || !reader.complete() || !sane(*order))
    return absl::InvalidArgumentError("KV order: malformed, or of another group");
  return *std::move(order);
}

absl::StatusOr<KvNote> decode_note(const KvGroupKey& key, std::span<const std::byte> bytes) {
  const absl::Status bad = absl::InvalidArgumentError("KV note: malformed, or of another group");
  ByteReader reader(bytes);
  if (!opens(reader, kNote, key)) return bad;
  uint8_t kind = 0;
  reader.number(kind);
  if (kind == kReportNote) {
    PeerReport report;
    describe_event(reader, report);
    if (!reader.complete()) return bad;
    return report;
  }
  if (kind == kPaceNote) {
    KvPaceNote pace;
    describe_pace(reader, pace);
    if (!reader.complete() || !(pace.bytes_per_second > 0)) return bad;
    return pace;
  }
  if (kind == kCopiedNote) {
    HostCopied copied;
    describe_copied(reader, copied);
    if (!reader.complete()) return bad;
    return copied;
  }
  KvStreamNote note;
  describe(reader, note.peer);
  auto event = read_one<KvEvent>(kind, reader, [](auto& c, auto& m) { describe_event(c, m); });
  if (!event || !reader.complete()) return bad;
  if (const auto* landed = std::get_if<KvLanded>(&*event); landed && landed->finish > FinishReason::kError)
    return bad;
  note.event = *std::move(event);
  return note;
}

WorkerRef rank_ref(const WorkerRef& worker, int rank) {
  return rank == 0 ? worker : WorkerRef{cat(worker.name, ".", rank), worker.incarnation};
}

std::string to_text(const KvAddress& address) {
  if (address.ranks.size() == 1) return address.ranks[0];
  std::string out = cat("ranks ", address.shape.tensor, "x", address.shape.pipeline);
  for (size_t i = 0; i < address.shape.stage_layers.size(); ++i)
    out += cat(i == 0 ? "/" : "+", address.shape.stage_layers[i]);
  for (const std::string& rank : address.ranks) out += cat(" ", rank);
  return out;
}

absl::StatusOr<KvAddress> parse_kv_address(const std::string& text) {
  if (!text.starts_with("ranks ")) return KvAddress{.ranks = {text}};
  std::vector<std::string> words = absl::StrSplit(text, ' ');
  KvAddress out{.ranks = {words.begin() + 2, words.end()}};
  if (!parse_shape(words[1], out.shape) || out.ranks.size() != static_cast<size_t>(out.shape.ranks()))
    return absl::InvalidArgumentError(
        cat("data address of ranks: want a shape and as many addresses, got '", text.substr(0, 200), "'"));
  return out;
}

}  // namespace baton::worker
