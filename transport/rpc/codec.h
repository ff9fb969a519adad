#pragma once

#include "base/status.h"
#include "transport/messages/messages.h"

namespace baton::wire {
class CoordinatorMessage;
class WorkerMessage;
class WorkerDescription;
class WorkerRef;
}  // namespace baton::wire

// Plain structs <-> protobuf. encode() takes what the program made and cannot fail; free text is cut to
// kMaxTextBytes. decode() takes what came over the wire: every size, range and enum is checked, and the
// answer to bad input is kInvalidArgument naming the field ("submit.request.top_p: want 0..1, got 7"), never
// a crash. Thread: any.
namespace baton::transport {

// Bounds on what a peer may send. A message is at most kMaxMessageBytes on the wire (checked by gRPC).
inline constexpr int kMaxMessageBytes = 16 << 20;
inline constexpr int kMaxNameBytes = 253;  // as long as a host name: worker, pool, coordinator
inline constexpr int kMaxTextBytes = 4096;
inline constexpr int kMaxAddressBytes = 64 << 10;
inline constexpr int kMaxPromptTokens = 1 << 21;
inline constexpr int kMaxTokenList = 4096;  // stop ids, logit bias
inline constexpr int kMaxLogprobs = 128;

void encode(const CoordinatorMessage& from, wire::CoordinatorMessage& to);
void encode(const WorkerMessage& from, wire::WorkerMessage& to);
void encode(const WorkerDescription& from, wire::WorkerDescription& to);
void encode(const WorkerRef& from, wire::WorkerRef& to);

absl::StatusOr<CoordinatorMessage> decode(const wire::CoordinatorMessage& from);
absl::StatusOr<WorkerMessage> decode(const wire::WorkerMessage& from);
absl::StatusOr<WorkerDescription> decode(const wire::WorkerDescription& from);
absl::StatusOr<WorkerRef> decode(const wire::WorkerRef& from);

}  // namespace baton::transport
