#include "transport/rpc/codec_parts.h"

namespace baton::transport {

namespace {

constexpr int kMaxListed = 1 << 20;  // sequences, tokens, block hashes in one message

void encode_load(const LoadSnapshot& from, wire::LoadSnapshot& to) {
  to.set_running(from.running);
  to.set_waiting(from.waiting);
  to.set_waiting_prompt_tokens(from.waiting_prompt_tokens);
  to.set_blocks_free(from.blocks_free);
  to.set_blocks_cached(from.blocks_cached);
  to.set_blocks_active(from.blocks_active);
  to.set_blocks_inflight(from.blocks_inflight);
  to.set_blocks_quarantined(from.blocks_quarantined);
  to.set_transfers_open(from.transfers_open);
  to.set_step_base_seconds(from.step_base_seconds);
  to.set_prefill_seconds_per_token(from.prefill_seconds_per_token);
  to.set_decode_seconds_per_sequence(from.decode_seconds_per_sequence);
  to.set_step_error_p95(from.step_error_p95);
  to.set_chunk_tokens(from.chunk_tokens);
}

LoadSnapshot decode_load(const wire::LoadSnapshot& from, FieldCheck& check) {
  const auto scope = check.scope("load");
  LoadSnapshot to;
  to.running = check.at_least("running", from.running(), 0);
  to.waiting = check.at_least("waiting", from.waiting(), 0);
  to.waiting_prompt_tokens = check.at_least("waiting_prompt_tokens", from.waiting_prompt_tokens(), 0);
  to.blocks_free = check.at_least("blocks_free", from.blocks_free(), 0);
  to.blocks_cached = check.at_least("blocks_cached", from.blocks_cached(), 0);
  to.blocks_active = check.at_least("blocks_active", from.blocks_active(), 0);
  to.blocks_inflight = check.at_least("blocks_inflight", from.blocks_inflight(), 0);
  to.blocks_quarantined = check.at_least("blocks_quarantined", from.blocks_quarantined(), 0);
  to.transfers_open = check.at_least("transfers_open", from.transfers_open(), 0);
  to.step_base_seconds = check.finite("step_base_seconds", from.step_base_seconds());
  to.prefill_seconds_per_token = check.finite("prefill_seconds_per_token", from.prefill_seconds_per_token());
  to.decode_seconds_per_sequence =
      check.finite("decode_seconds_per_sequence", from.decode_seconds_per_sequence());
  to.step_error_p95 = check.finite("step_error_p95", from.step_error_p95());
  to.chunk_tokens = check.at_least("chunk_tokens", from.chunk_tokens(), 0);
  return to;
}

void encode_token(const TokenOutput& from, wire::TokenOutput& to) {
  to.set_token(from.token);
  to.set_logprob(from.logprob);
  for (const TokenLogprob& alternative : from.top) {
    auto* entry = to.add_top();
    entry->set_token(alternative.token);
    entry->set_logprob(alternative.logprob);
    entry->set_rank(alternative.rank);
  }
}

TokenOutput decode_token(const wire::TokenOutput& from, FieldCheck& check) {
  TokenOutput to;
  to.token = check.at_least("token", from.token(), 0);
  to.logprob = check.not_nan("logprob", from.logprob());
  if (!check.size("top", from.top_size(), kMaxLogprobs + 1)) return to;
  to.top.reserve(from.top_size());
  for (const auto& entry : from.top()) {
    to.top.push_back({check.at_least("top.token", entry.token(), 0),
                      check.not_nan("top.logprob", entry.logprob()),
                      check.at_least("top.rank", entry.rank(), 0)});
  }
  return to;
}

using WireTokens = google::protobuf::RepeatedPtrField<wire::TokenOutput>;

std::vector<TokenOutput> decode_tokens(const char* field, const WireTokens& from, FieldCheck& check) {
  std::vector<TokenOutput> to;
  if (!check.size(field, from.size(), kMaxListed)) return to;
  const auto scope = check.scope(field);
  to.reserve(from.size());
  for (const auto& token : from) to.push_back(decode_token(token, check));
  return to;
}

void encode_sequence(const SequenceTokens& from, wire::SequenceTokens& to) {
  to.set_request(from.request.value());
  to.set_leg(static_cast<wire::Leg>(from.leg));
  for (const TokenOutput& token : from.tokens) encode_token(token, *to.add_tokens());
  for (const TokenOutput& token : from.prompt_tokens) encode_token(token, *to.add_prompt_tokens());
  to.set_finish(static_cast<wire::FinishReason>(from.finish));
  to.set_error(cut_text(from.error));
  to.set_cached_tokens(from.cached_tokens);
  to.set_queued_ns(nanoseconds(from.queued));
  to.set_prefill_ns(nanoseconds(from.prefill));
}

SequenceTokens decode_sequence(const wire::SequenceTokens& from, FieldCheck& check) {
  const auto scope = check.scope("sequence");
  SequenceTokens to;
  to.request = RequestId(from.request());
  to.leg = check.enumerator("leg", from.leg(), Leg::kDecode);
  to.tokens = decode_tokens("tokens", from.tokens(), check);
  to.prompt_tokens = decode_tokens("prompt_tokens", from.prompt_tokens(), check);
  to.finish = check.enumerator("finish", from.finish(), FinishReason::kWorkerEnds);
  to.error = check.text("error", from.error(), kMaxTextBytes);
  to.cached_tokens = check.at_least("cached_tokens", from.cached_tokens(), 0);
  to.queued = check.duration("queued_ns", from.queued_ns());
  to.prefill = check.duration("prefill_ns", from.prefill_ns());
  return to;
}

using WireWords = google::protobuf::RepeatedField<uint64_t>;

void encode_hashes(const std::vector<BlockHash>& from, WireWords& to) {
  to.Reserve(static_cast<int>(2 * from.size()));
  for (const BlockHash& hash : from) {
    to.AddAlreadyReserved(hash.lo);
    to.AddAlreadyReserved(hash.hi);
  }
}

std::vector<BlockHash> decode_hashes(const char* field, const WireWords& from, FieldCheck& check) {
  std::vector<BlockHash> to;
  if (!check.size(field, from.size(), 2 * kMaxListed)) return to;
  if (from.size() % 2 != 0) {
    check.fail(field, "want two words for each hash");
    return to;
  }
  to.reserve(from.size() / 2);
  for (int i = 0; i < from.size(); i += 2) to.push_back({from[i], from[i + 1]});
  return to;
}

// ---- the messages of a worker

void encode_one(const WorkerHello& from, wire::WorkerMessage& message) {
  message.mutable_hello()->set_protocol_version(from.protocol_version);
  encode(from.worker, *message.mutable_hello()->mutable_worker());
}

WorkerMessage decode_one(const wire::WorkerHello& from, FieldCheck& check) {
  const auto scope = check.scope("hello");
  return WorkerHello{from.protocol_version(), decode_description(from.worker(), check)};
}

void encode_one(const SubmitReply& from, wire::WorkerMessage& message) {
  auto& to = *message.mutable_submit_reply();
  to.set_request(from.request.value());
  to.set_leg(static_cast<wire::Leg>(from.leg));
  to.set_accepted(from.accepted);
  to.set_reason(static_cast<wire::RefuseReason>(from.reason));
  to.set_detail(cut_text(from.detail));
  to.set_cached_tokens(from.cached_tokens);
}

WorkerMessage decode_one(const wire::SubmitReply& from, FieldCheck& check) {
  const auto scope = check.scope("submit_reply");
  SubmitReply to;
  to.request = RequestId(from.request());
  to.leg = check.enumerator("leg", from.leg(), Leg::kDecode);
  to.accepted = from.accepted();
  to.reason = check.enumerator("reason", from.reason(), RefuseReason::kInvalid);
  to.detail = check.text("detail", from.detail(), kMaxTextBytes);
  to.cached_tokens = check.at_least("cached_tokens", from.cached_tokens(), 0);
  return to;
}

void encode_one(const StepReport& from, wire::WorkerMessage& message) {
  auto& to = *message.mutable_step_report();
  to.set_step(from.step.value());
  for (const SequenceTokens& sequence : from.sequences) encode_sequence(sequence, *to.add_sequences());
  encode_hashes(from.blocks_stored, *to.mutable_blocks_stored());
  encode_hashes(from.blocks_evicted, *to.mutable_blocks_evicted());
  encode_load(from.load, *to.mutable_load());
}

WorkerMessage decode_one(const wire::StepReport& from, FieldCheck& check) {
  const auto scope = check.scope("step_report");
  StepReport to;
  to.step = StepId(from.step());
  if (check.size("sequences", from.sequences_size(), kMaxListed)) {
    to.sequences.reserve(from.sequences_size());
    for (const auto& sequence : from.sequences()) to.sequences.push_back(decode_sequence(sequence, check));
  }
  to.blocks_stored = decode_hashes("blocks_stored", from.blocks_stored(), check);
  to.blocks_evicted = decode_hashes("blocks_evicted", from.blocks_evicted(), check);
  to.load = decode_load(from.load(), check);
  return to;
}

void encode_one(const TransferReport& from, wire::WorkerMessage& message) {
  auto& to = *message.mutable_transfer_report();
  to.set_transfer(from.transfer.value());
  to.set_request(from.request.value());
  to.set_ok(from.ok);
  to.set_error(cut_text(from.error));
  to.set_bytes_moved(from.bytes);
  to.set_duration_ns(nanoseconds(from.duration));
  to.set_exposed_ns(nanoseconds(from.exposed));
  to.set_lane(from.lane);
}

WorkerMessage decode_one(const wire::TransferReport& from, FieldCheck& check) {
  const auto scope = check.scope("transfer_report");
  TransferReport to;
  to.transfer = TransferId(from.transfer());
  to.request = RequestId(from.request());
  to.ok = from.ok();
  to.error = check.text("error", from.error(), kMaxTextBytes);
  to.bytes = from.bytes_moved();
  to.duration = check.duration("duration_ns", from.duration_ns());
  to.exposed = check.duration("exposed_ns", from.exposed_ns());
  to.lane = check.text("lane", from.lane(), kMaxNameBytes);
  return to;
}

void encode_one(const Released& from, wire::WorkerMessage& message) {
  message.mutable_released()->set_request(from.request.value());
  message.mutable_released()->set_leg(static_cast<wire::Leg>(from.leg));
}

WorkerMessage decode_one(const wire::Released& from, FieldCheck& check) {
  const auto scope = check.scope("released");
  return Released{RequestId(from.request()), check.enumerator("leg", from.leg(), Leg::kDecode)};
}

void encode_one(const PeerReport& from, wire::WorkerMessage& message) {
  auto& to = *message.mutable_peer_report();
  encode(from.peer, *to.mutable_peer());
  to.set_connected(from.connected);
  to.set_lane(from.lane);
  to.set_error(cut_text(from.error));
  to.set_bytes_per_second(from.bytes_per_second);
  to.set_latency_ns(nanoseconds(from.latency));
  to.set_over(from.over);
}

WorkerMessage decode_one(const wire::PeerReport& from, FieldCheck& check) {
  const auto scope = check.scope("peer_report");
  PeerReport to;
  to.peer = decode_ref(from.peer(), check);
  to.connected = from.connected();
  to.lane = check.text("lane", from.lane(), kMaxNameBytes);
  to.error = check.text("error", from.error(), kMaxTextBytes);
  to.bytes_per_second = check.in_range("bytes_per_second", from.bytes_per_second(), 0, 1e18);
  to.latency = check.duration("latency_ns", from.latency_ns());
  to.over = from.over();
  return to;
}

void encode_one(const Pong& from, wire::WorkerMessage& message) {
  auto& to = *message.mutable_pong();
  to.set_number(from.number);
  encode_load(from.load, *to.mutable_load());
  to.set_draining(from.draining);
  to.set_step_age_ns(nanoseconds(from.step_age));
  to.set_step_predicted_ns(nanoseconds(from.step_predicted));
}

WorkerMessage decode_one(const wire::Pong& from, FieldCheck& check) {
  const auto scope = check.scope("pong");
  return Pong{.number = from.number(),
              .load = decode_load(from.load(), check),
              .draining = from.draining(),
              .step_age = check.duration("step_age_ns", from.step_age_ns()),
              .step_predicted = check.duration("step_predicted_ns", from.step_predicted_ns())};
}

WorkerMessage decode_any(const wire::WorkerMessage& from, FieldCheck& check) {
  switch (from.kind_case()) {
    case wire::WorkerMessage::kHello:
      return decode_one(from.hello(), check);
    case wire::WorkerMessage::kSubmitReply:
      return decode_one(from.submit_reply(), check);
    case wire::WorkerMessage::kStepReport:
      return decode_one(from.step_report(), check);
    case wire::WorkerMessage::kTransferReport:
      return decode_one(from.transfer_report(), check);
    case wire::WorkerMessage::kReleased:
      return decode_one(from.released(), check);
    case wire::WorkerMessage::kPeerReport:
      return decode_one(from.peer_report(), check);
    case wire::WorkerMessage::kPong:
      return decode_one(from.pong(), check);
    case wire::WorkerMessage::KIND_NOT_SET:
      break;
  }
  check.fail("kind", "want a known worker message, got none");
  return Pong{};
}

}  // namespace

void encode(const WorkerMessage& from, wire::WorkerMessage& to) {
  std::visit([&](const auto& message) { encode_one(message, to); }, from);
}

absl::StatusOr<WorkerMessage> decode(const wire::WorkerMessage& from) {
  FieldCheck check;
  return checked(decode_any(from, check), check);
}

}  // namespace baton::transport
