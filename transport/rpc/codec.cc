#include "transport/rpc/codec.h"

#include <algorithm>

#include "transport/rpc/codec_parts.h"

namespace baton::transport {

namespace {

bool is_name_byte(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
         c == '-';
}

void encode_tokens(const std::vector<TokenId>& from, google::protobuf::RepeatedField<int32_t>& to) {
  to.Add(from.begin(), from.end());
}

std::vector<TokenId> decode_tokens(const char* field, const google::protobuf::RepeatedField<int32_t>& from,
                                   int most, FieldCheck& check) {
  if (!check.size(field, from.size(), most)) return {};
  if (std::any_of(from.begin(), from.end(), [](int32_t t) { return t < 0; })) {
    check.fail(field, "want token ids >= 0, got a negative one");
    return {};
  }
  return {from.begin(), from.end()};
}

void encode_sampling(const SamplingParams& from, wire::SamplingParams& to) {
  to.set_temperature(from.temperature);
  to.set_top_p(from.top_p);
  to.set_top_k(from.top_k);
  to.set_min_p(from.min_p);
  to.set_repetition_penalty(from.repetition_penalty);
  to.set_presence_penalty(from.presence_penalty);
  to.set_frequency_penalty(from.frequency_penalty);
  for (const auto& [token, bias] : from.logit_bias) {
    auto* entry = to.add_logit_bias();
    entry->set_token(token);
    entry->set_bias(bias);
  }
  to.set_seed(from.seed);
  to.set_logprobs(from.logprobs);
  to.set_prompt_logprobs(from.prompt_logprobs);
}

SamplingParams decode_sampling(const wire::SamplingParams& from, FieldCheck& check) {
  const auto scope = check.scope("sampling");
  SamplingParams to;
  to.temperature = check.in_range("temperature", from.temperature(), 0, 1e6f);
  to.top_p = check.in_range("top_p", from.top_p(), 0, 1);
  to.top_k = check.at_least("top_k", from.top_k(), 0);
  to.min_p = check.in_range("min_p", from.min_p(), 0, 1);
  to.repetition_penalty = check.in_range("repetition_penalty", from.repetition_penalty(), 1e-6f, 1e6f);
  to.presence_penalty = check.in_range("presence_penalty", from.presence_penalty(), -1e6f, 1e6f);
  to.frequency_penalty = check.in_range("frequency_penalty", from.frequency_penalty(), -1e6f, 1e6f);
  if (check.size("logit_bias", from.logit_bias_size(), kMaxTokenList)) {
    for (const auto& entry : from.logit_bias()) {
      to.logit_bias.emplace_back(check.at_least("logit_bias.token", entry.token(), 0),
                                 check.not_nan("logit_bias.bias", entry.bias()));
    }
  }
  to.seed = from.seed();
  to.logprobs = check.in_range("logprobs", from.logprobs(), -1, kMaxLogprobs);
  to.prompt_logprobs = check.in_range("prompt_logprobs", from.prompt_logprobs(), -1, kMaxLogprobs);
  return to;
}

void encode_stop(const StopParams& from, wire::StopParams& to) {
  to.set_max_tokens(from.max_tokens);
  to.set_min_tokens(from.min_tokens);
  encode_tokens(from.end_token_ids, *to.mutable_end_token_ids());
  encode_tokens(from.stop_token_ids, *to.mutable_stop_token_ids());
}

StopParams decode_stop(const wire::StopParams& from, FieldCheck& check) {
  const auto scope = check.scope("stop");
  StopParams to;
  to.max_tokens = check.in_range("max_tokens", from.max_tokens(), 1, kMaxPromptTokens);
  to.min_tokens = check.in_range("min_tokens", from.min_tokens(), 0, kMaxPromptTokens);
  to.end_token_ids = decode_tokens("end_token_ids", from.end_token_ids(), kMaxTokenList, check);
  to.stop_token_ids = decode_tokens("stop_token_ids", from.stop_token_ids(), kMaxTokenList, check);
  return to;
}

void encode_request(const GenerateRequest& from, wire::GenerateRequest& to) {
  to.set_id(from.id.value());
  to.set_trace_id(from.trace_id);
  to.set_tenant_salt(from.tenant_salt);
  encode_tokens(from.prompt, *to.mutable_prompt());
  encode_sampling(from.sampling, *to.mutable_sampling());
  encode_stop(from.stop, *to.mutable_stop());
  to.set_time_left_ns(nanoseconds(from.time_left));
  to.set_answered(from.answered);
  if (from.grammar.empty()) return;
  to.mutable_grammar()->set_kind(static_cast<wire::GrammarKind>(from.grammar.kind));
  to.mutable_grammar()->set_source(from.grammar.source);
}

GenerateRequest decode_request(const wire::GenerateRequest& from, FieldCheck& check) {
  const auto scope = check.scope("request");
  GenerateRequest to;
  to.id = RequestId(from.id());
  to.trace_id = check.name("trace_id", from.trace_id(), 64, /*may_be_empty=*/true);
  to.tenant_salt = check.text("tenant_salt", from.tenant_salt(), kMaxTextBytes);
  to.prompt = decode_tokens("prompt", from.prompt(), kMaxPromptTokens, check);
  if (to.prompt.empty()) check.fail("prompt", "want at least one token");
  to.sampling = decode_sampling(from.sampling(), check);
  to.stop = decode_stop(from.stop(), check);
  to.time_left = check.duration("time_left_ns", from.time_left_ns());
  to.answered = check.in_range("answered", from.answered(), 0, kMaxPromptTokens);
  to.grammar.kind = check.enumerator("grammar.kind", from.grammar().kind(), GrammarKind::kLark);
  to.grammar.source = check.text("grammar.source", from.grammar().source(), Grammar::kMostBytes);
  return to;
}

// ---- the messages of a coordinator

void encode_one(const CoordinatorHello& from, wire::CoordinatorMessage& message) {
  auto& to = *message.mutable_hello();
  to.set_protocol_version(from.protocol_version);
  to.set_coordinator_id(from.coordinator_id);
  to.set_term(from.term);
  to.mutable_hash_key()->set_k0(from.hash_key.k0);
  to.mutable_hash_key()->set_k1(from.hash_key.k1);
  to.set_worker_incarnation(from.worker_incarnation.value());
}

CoordinatorMessage decode_one(const wire::CoordinatorHello& from, FieldCheck& check) {
  const auto scope = check.scope("hello");
  CoordinatorHello to;
  to.protocol_version = from.protocol_version();
  to.coordinator_id = check.name("coordinator_id", from.coordinator_id(), kMaxNameBytes);
  to.term = from.term();
  to.hash_key = {from.hash_key().k0(), from.hash_key().k1()};
  to.worker_incarnation = Incarnation(from.worker_incarnation());
  return to;
}

void encode_one(const Submit& from, wire::CoordinatorMessage& message) {
  auto& to = *message.mutable_submit();
  encode_request(from.request, *to.mutable_request());
  to.set_leg(static_cast<wire::Leg>(from.leg));
  to.set_transfer(from.transfer.value());
  if (from.peer) encode(*from.peer, *to.mutable_peer());
}

CoordinatorMessage decode_one(const wire::Submit& from, FieldCheck& check) {
  const auto scope = check.scope("submit");
  Submit to;
  to.request = decode_request(from.request(), check);
  to.leg = check.enumerator("leg", from.leg(), Leg::kDecode);
  to.transfer = TransferId(from.transfer());
  if (from.has_peer()) to.peer = decode_ref(from.peer(), check);
  if (to.leg != Leg::kWhole && !to.peer) check.fail("peer", "want a worker: this is one leg of a pair");
  return to;
}

void encode_one(const Release& from, wire::CoordinatorMessage& message) {
  message.mutable_release()->set_request(from.request.value());
}

CoordinatorMessage decode_one(const wire::Release& from, FieldCheck&) {
  return Release{RequestId(from.request())};
}

void encode_one(const ConnectPeer& from, wire::CoordinatorMessage& message) {
  encode(from.peer, *message.mutable_connect_peer()->mutable_peer());
}

CoordinatorMessage decode_one(const wire::ConnectPeer& from, FieldCheck& check) {
  const auto scope = check.scope("connect_peer");
  return ConnectPeer{decode_description(from.peer(), check)};
}

void encode_one(const FencePeer& from, wire::CoordinatorMessage& message) {
  encode(from.peer, *message.mutable_fence_peer()->mutable_peer());
}

CoordinatorMessage decode_one(const wire::FencePeer& from, FieldCheck& check) {
  const auto scope = check.scope("fence_peer");
  return FencePeer{decode_ref(from.peer(), check)};
}

void encode_one(const Ping& from, wire::CoordinatorMessage& message) {
  message.mutable_ping()->set_number(from.number);
}

CoordinatorMessage decode_one(const wire::Ping& from, FieldCheck&) { return Ping{from.number()}; }

CoordinatorMessage decode_any(const wire::CoordinatorMessage& from, FieldCheck& check) {
  switch (from.kind_case()) {
    case wire::CoordinatorMessage::kHello:
      return decode_one(from.hello(), check);
    case wire::CoordinatorMessage::kSubmit:
      return decode_one(from.submit(), check);
    case wire::CoordinatorMessage::kRelease:
      return decode_one(from.release(), check);
    case wire::CoordinatorMessage::kConnectPeer:
      return decode_one(from.connect_peer(), check);
    case wire::CoordinatorMessage::kFencePeer:
      return decode_one(from.fence_peer(), check);
    case wire::CoordinatorMessage::kPing:
      return decode_one(from.ping(), check);
    case wire::CoordinatorMessage::KIND_NOT_SET:
      break;
  }
  check.fail("kind", "want a known coordinator message, got none");
  return Ping{};
}

}  // namespace

std::string FieldCheck::text(const char* field, const std::string& value, size_t max_bytes) {
  if (value.size() <= max_bytes) return value;
  fail(field, absl::StrCat("want at most ", max_bytes, " bytes, got ", value.size()));
  return {};
}

std::string FieldCheck::name(const char* field, const std::string& value, size_t max_bytes,
                             bool may_be_empty) {
  if (value.size() > max_bytes || (value.empty() && !may_be_empty)) {
    fail(field, absl::StrCat("want ", may_be_empty ? 0 : 1, "..", max_bytes, " bytes, got ", value.size()));
    return {};
  }
  if (!std::all_of(value.begin(), value.end(), is_name_byte)) {
    fail(field, "want only letters, digits, '.', '_' and '-'");
    return {};
  }
  return value;
}

std::string cut_text(const std::string& text) { return text.substr(0, kMaxTextBytes); }

void encode(const WorkerRef& from, wire::WorkerRef& to) {
  to.set_name(from.name);
  to.set_incarnation(from.incarnation.value());
}

WorkerRef decode_ref(const wire::WorkerRef& from, FieldCheck& check) {
  return {check.name("worker.name", from.name(), kMaxNameBytes), Incarnation(from.incarnation())};
}

void encode(const WorkerDescription& from, wire::WorkerDescription& to) {
  encode(from.ref, *to.mutable_ref());
  to.set_role(static_cast<wire::WorkerRole>(from.role));
  to.set_pool(from.pool);
  to.set_host_id(from.host_id);
  to.set_control_address(from.control_address);
  to.set_data_address(from.data_address);
  to.set_metrics_address(from.metrics_address);
  to.set_pid(from.pid);
  to.set_version(cut_text(from.version));
  to.set_device(cut_text(from.device));
  to.set_model_hash(from.model_hash);
  to.set_kv_layout_hash(from.kv_layout_hash);
  to.set_numerics_id(from.numerics_id);
  to.set_block_tokens(from.block_tokens);
  to.set_context_tokens(from.context_tokens);
  to.set_blocks_total(from.blocks_total);
}

WorkerDescription decode_description(const wire::WorkerDescription& from, FieldCheck& check) {
  const auto scope = check.scope("worker");
  WorkerDescription to;
  to.ref = decode_ref(from.ref(), check);
  to.role = check.enumerator("role", from.role(), WorkerRole::kDecode);
  to.pool = check.name("pool", from.pool(), kMaxNameBytes, /*may_be_empty=*/true);
  to.host_id = check.text("host_id", from.host_id(), kMaxTextBytes);
  to.control_address = check.text("control_address", from.control_address(), kMaxTextBytes);
  to.data_address = check.text("data_address", from.data_address(), kMaxAddressBytes);
  to.metrics_address = check.text("metrics_address", from.metrics_address(), kMaxTextBytes);
  to.pid = from.pid();
  to.version = check.text("version", from.version(), kMaxTextBytes);
  to.device = check.text("device", from.device(), kMaxTextBytes);
  to.model_hash = check.text("model_hash", from.model_hash(), kMaxTextBytes);
  to.kv_layout_hash = check.text("kv_layout_hash", from.kv_layout_hash(), kMaxTextBytes);
  to.numerics_id = check.text("numerics_id", from.numerics_id(), kMaxTextBytes);
  to.block_tokens = check.in_range("block_tokens", from.block_tokens(), 1, 1 << 20);
  to.context_tokens = check.in_range("context_tokens", from.context_tokens(), 1, 1 << 30);
  to.blocks_total = check.in_range("blocks_total", from.blocks_total(), 1, int64_t{1} << 32);
  return to;
}

void encode(const CoordinatorMessage& from, wire::CoordinatorMessage& to) {
  std::visit([&](const auto& message) { encode_one(message, to); }, from);
}

absl::StatusOr<CoordinatorMessage> decode(const wire::CoordinatorMessage& from) {
  FieldCheck check;
  return checked(decode_any(from, check), check);
}

absl::StatusOr<WorkerDescription> decode(const wire::WorkerDescription& from) {
  FieldCheck check;
  return checked(decode_description(from, check), check);
}

absl::StatusOr<WorkerRef> decode(const wire::WorkerRef& from) {
  FieldCheck check;
  return checked(decode_ref(from, check), check);
}

}  // namespace baton::transport
