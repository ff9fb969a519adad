#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/status.h"
#include "transport/messages/messages.h"
#include "worker/kv_transfer/kv_part.h"

// What two workers say to each other about a transfer, beside the bytes. No block ids and no offsets of the
// receiver travel: it alone decides where bytes go.
namespace baton::worker {

// Which side of a transfer the sender of a message is.
enum class KvSide : uint8_t { kSource = 0, kSink = 1 };

// Sink to source: send prompt blocks [first_block, first_block + generations.size()).
struct KvGrantMessage {
  TransferId transfer;
  int32_t first_block = 0;
  int32_t prompt_tokens = 0;
  std::vector<uint32_t> generations;  // of the blocks that wait; echoed in every piece
  KvPart part;                        // layers and heads of the model that are to come
};
// Source to sink: prefill is done, and this is the first token. Pieces may still be on their way.
struct KvFinishMessage {
  TransferId transfer;
  TokenOutput first_token;
  FinishReason finish = FinishReason::kNone;
};
// Either way, last word about a transfer. ok only from the sink: everything landed.
struct KvEndMessage {
  TransferId transfer;
  KvSide from = KvSide::kSource;
  bool ok = false;
  std::string reason;
};
// Each timers::kSourceLeaseRenew: I still hold my half of these.
struct KvRenewMessage {
  KvSide from = KvSide::kSource;
  std::vector<TransferId> transfers;
};
using KvMessage = std::variant<KvGrantMessage, KvFinishMessage, KvEndMessage, KvRenewMessage>;

// Header of an offered piece: prompt blocks [first_block, first_block + generations.size()) of one layer (of
// the model's), its heads as the grant says.
struct KvPieceHeader {
  TransferId transfer;
  int32_t layer = 0;
  int32_t first_block = 0;
  std::vector<uint32_t> generations;
};

inline constexpr size_t kMaxGrantBlocks = 200'000;
inline constexpr size_t kMaxPieceBlocks = 512;
inline constexpr size_t kMaxRenewals = 100'000;
inline constexpr size_t kMaxEndReason = 512;

std::string encode(const KvMessage& message);
absl::StatusOr<KvMessage> decode_message(std::span<const std::byte> bytes);
std::string encode(const KvPieceHeader& header);
absl::StatusOr<KvPieceHeader> decode_piece_header(std::span<const std::byte> bytes);
// Only whose piece it is; of a header that was decoded before.
TransferId piece_transfer(std::span<const std::byte> header);

}  // namespace baton::worker
