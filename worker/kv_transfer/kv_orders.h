#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/status.h"
#include "worker/kv_cache/host_copies.h"
#include "worker/kv_transfer/kv_stream.h"
#include "worker/parallel/model_part.h"

// What rank 0 of a worker tells its other ranks about hand-overs and about KV in host memory (orders), and
// what they answer (notes). They travel as messages of the data plane. Unlike workers, ranks of one worker
// name blocks to each other: a block has the same id on all of them. So every such message carries the
// group's key, which only they know.
namespace baton::worker {

using KvGroupKey = std::array<uint64_t, 2>;

// Receive (send) the prompt's KV by these streams. `grant.source` and `send.destination` are the other
// worker.
struct KvExpectOrder {
  KvGrant grant;
  std::vector<KvLink> links;
};
struct KvSendOrder {
  KvSend send;
  std::vector<KvLink> links;
};
// Of all streams of the transfer at this rank.
struct KvAbandonOrder {
  TransferId transfer;
};
struct KvFinishOrder {
  TransferId transfer;
  TokenOutput first_token;
  FinishReason finish = FinishReason::kNone;
};
struct KvCancelOrder {
  TransferId transfer;
};
// Meet these ranks of another worker.
struct KvConnectOrder {
  std::vector<WorkerRef> peers;
  std::vector<std::string> addresses;
};
// That life of the worker is over, with all of its ranks.
struct KvFenceOrder {
  WorkerRef worker;
  int32_t ranks = 1;
};
// Copy this rank's part of these blocks.
struct KvCopyOrder {
  HostCopy copy;
};
using KvOrder = std::variant<KvExpectOrder, KvSendOrder, KvAbandonOrder, KvFinishOrder, KvCancelOrder,
                             KvConnectOrder, KvFenceOrder, KvCopyOrder>;

// What became of the stream with `peer`, or of the connection to it.
struct KvStreamNote {
  WorkerRef peer;
  KvEvent event;
};
// How fast `worker` takes what this rank sends it, all streams together (KvPace).
struct KvPaceNote {
  WorkerRef worker;
  double bytes_per_second = 0;
};
using KvNote = std::variant<KvStreamNote, PeerReport, KvPaceNote, HostCopied>;

// Most that fit a message with everything else in it: 1.2 million tokens in blocks of 16.
inline constexpr size_t kMaxOrderBlocks = 80'000;
inline constexpr int kMaxGroupRanks = 1024;

// Messages of workers to each other (kv_wire.h) begin with other bytes.
bool is_group_message(std::span<const std::byte> bytes);
std::string encode(const KvGroupKey& key, const KvOrder& order);
std::string encode(const KvGroupKey& key, const KvNote& note);
// kInvalidArgument: malformed, or of another group.
absl::StatusOr<KvOrder> decode_order(const KvGroupKey& key, std::span<const std::byte> bytes);
absl::StatusOr<KvNote> decode_note(const KvGroupKey& key, std::span<const std::byte> bytes);

// Rank `rank` of a worker on the data plane: "decode-0" is rank 0, "decode-0.1" rank 1.
WorkerRef rank_ref(const WorkerRef& worker, int rank);

// WorkerDescription::data_address of a worker of several ranks: its shape with the layers of its stages, and
// where each rank's plane listens. A worker of one rank gives its plane's address as it is. Examples
//   {2 x 1, {"socket:127.0.0.1:4711", "socket:127.0.0.1:4712"}}: "ranks 2x1 socket:... socket:..."
//   {1 x 2 of 16 + 14 layers, the same}: "ranks 1x2/16+14 socket:... socket:..."
struct KvAddress {
  ParallelShape shape{};
  std::vector<std::string> ranks{};
};
std::string to_text(const KvAddress& address);
// The layers are numbers from 1 on, as many as stages; whether they are the model's says part_of().
absl::StatusOr<KvAddress> parse_kv_address(const std::string& text);

}  // namespace baton::worker
