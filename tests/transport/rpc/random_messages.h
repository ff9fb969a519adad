#pragma once

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <string>

#include "base/rng.h"
#include "tests/support/seed.h"
#include "transport/messages/messages.h"

// Random messages with every field set. The structured bindings name every field of a struct: a field that is
// added to messages.h does not compile here before it is filled (and the round trip then fails before it is
// coded).
namespace baton::transport {

// Replay with BATON_SEED=n.
inline uint64_t test_seed() {
  const uint64_t seed = support::fresh_seed();
  return seed;
}

class RandomMessages {
 public:
  explicit RandomMessages(uint64_t seed) : rng_(seed) {}

  CoordinatorMessage coordinator_message() {
    switch (rng_.below(6)) {
      case 0:
        return hello();
      case 1:
        return submit();
      case 2:
        return Release{id<RequestId>()};
      case 3:
        return ConnectPeer{description()};
      case 4:
        return FencePeer{ref()};
      default:
        return Ping{rng_.next()};
    }
  }

  WorkerMessage worker_message() {
    switch (rng_.below(7)) {
      case 0:
        return WorkerHello{static_cast<uint32_t>(rng_.next()), description()};
      case 1:
        return submit_reply();
      case 2:
        return step_report();
      case 3:
        return transfer_report();
      case 4:
        return Released{id<RequestId>(), pick<Leg>(3)};
      case 5:
        return peer_report();
      default:
        return Pong{rng_.next(), load(), flip(), duration(), duration()};
    }
  }

  WorkerDescription description() {
    WorkerDescription d;
    auto& [ref_, role, pool, host_id, control_address, data_address, metrics_address, pid, version, device,
           model_hash, kv_layout_hash, numerics_id, block_tokens, context_tokens, blocks_total] = d;
    ref_ = ref();
    role = pick<WorkerRole>(3);
    pool = name();
    host_id = text();
    control_address = text();
    data_address = text();
    metrics_address = text();
    pid = rng_.next();
    version = text();
    device = text();
    model_hash = text();
    kv_layout_hash = text();
    numerics_id = text();
    block_tokens = 1 + count(1 << 10);
    context_tokens = 1 + count(1 << 20);
    blocks_total = 1 + static_cast<int64_t>(rng_.below(uint64_t{1} << 32));
    return d;
  }

  WorkerRef ref() { return {name(), id<Incarnation>()}; }

  LoadSnapshot load() {
    LoadSnapshot l;
    auto& [running, waiting, waiting_prompt_tokens, blocks_free, blocks_cached, blocks_active,
           blocks_inflight, blocks_quarantined, transfers_open, step_base, per_token, per_sequence, error_p95,
           chunk_tokens] = l;
    running = count();
    waiting = count();
    transfers_open = count();
    chunk_tokens = count();
    for (int64_t* n : {&waiting_prompt_tokens, &blocks_free, &blocks_cached, &blocks_active, &blocks_inflight,
                       &blocks_quarantined}) {
      *n = static_cast<int64_t>(rng_.next() >> 1);
    }
    for (double* x : {&step_base, &per_token, &per_sequence, &error_p95})
      *x = (rng_.next_double() - 0.5) * 1e3;
    return l;
  }

  Submit submit() {
    Submit s;
    auto& [request_, leg, transfer, peer] = s;
    request_ = request();
    leg = pick<Leg>(3);
    transfer = id<TransferId>();
    if (leg != Leg::kWhole || flip()) peer = ref();
    return s;
  }

 private:
  CoordinatorHello hello() {
    CoordinatorHello h;
    auto& [version, coordinator, term, key, incarnation] = h;
    version = static_cast<uint32_t>(rng_.next());
    coordinator = name();
    term = rng_.next();
    key = {rng_.next(), rng_.next()};
    incarnation = id<Incarnation>();
    return h;
  }

  GenerateRequest request() {
    GenerateRequest r;
    auto& [request_id, trace_id, tenant_salt, prompt, sampling_, stop_, time_left, answered, grammar] = r;
    request_id = id<RequestId>();
    trace_id = name().substr(0, 64);
    tenant_salt = text();
    prompt = tokens(1 + rng_.below(300));
    sampling_ = sampling();
    stop_ = stop();
    time_left = duration();
    answered = static_cast<int32_t>(rng_.below(prompt.size()));
    if (flip()) grammar = {static_cast<GrammarKind>(1 + rng_.below(3)), text()};
    return r;
  }

  SamplingParams sampling() {
    SamplingParams p;
    auto& [temperature, top_p, top_k, min_p, repetition, presence, frequency, logit_bias, seed, logprobs,
           prompt_logprobs] = p;
    temperature = real(0, 2);
    top_p = real(0, 1);
    top_k = count();
    min_p = real(0, 1);
    repetition = real(0.01, 2);
    presence = real(-2, 2);
    frequency = real(-2, 2);
    for (uint64_t n = rng_.below(4); n > 0; --n) logit_bias.emplace_back(count(), real(-100, 100));
    seed = rng_.next();
    logprobs = count(22) - 1;
    prompt_logprobs = count(22) - 1;
    return p;
  }

  StopParams stop() {
    StopParams p;
    auto& [max_tokens, min_tokens, end_ids, stop_ids] = p;
    max_tokens = 1 + count(1 << 20);
    min_tokens = count(1 << 20);
    end_ids = tokens(rng_.below(4));
    stop_ids = tokens(rng_.below(4));
    return p;
  }

  SubmitReply submit_reply() {
    SubmitReply r;
    auto& [request_, leg, accepted, reason, detail, cached] = r;
    request_ = id<RequestId>();
    leg = pick<Leg>(3);
    accepted = flip();
    reason = pick<RefuseReason>(7);
    detail = text();
    cached = count();
    return r;
  }

  TokenOutput token() {
    TokenOutput t;
    auto& [token_, logprob, top] = t;
    token_ = count();
    logprob = real(-50, 0);
    for (uint64_t n = rng_.below(4); n > 0; --n) {
      TokenLogprob alternative;
      auto& [other, other_logprob, rank] = alternative;
      other = count();
      other_logprob = flip() ? real(-50, 0) : -std::numeric_limits<float>::infinity();
      rank = count();
      top.push_back(alternative);
    }
    return t;
  }

  SequenceTokens sequence() {
    SequenceTokens s;
    auto& [request_, leg, out, prompt, finish, error, cached, queued, prefill] = s;
    request_ = id<RequestId>();
    leg = pick<Leg>(3);
    for (uint64_t n = rng_.below(3); n > 0; --n) out.push_back(token());
    for (uint64_t n = rng_.below(3); n > 0; --n) prompt.push_back(token());
    finish = pick<FinishReason>(7);
    error = text();
    cached = count();
    queued = duration();
    prefill = duration();
    return s;
  }

  StepReport step_report() {
    StepReport r;
    auto& [step, sequences, stored, evicted, load_] = r;
    step = id<StepId>();
    for (uint64_t n = rng_.below(4); n > 0; --n) sequences.push_back(sequence());
    for (uint64_t n = rng_.below(9); n > 0; --n) stored.push_back({rng_.next(), rng_.next()});
    for (uint64_t n = rng_.below(9); n > 0; --n) evicted.push_back({rng_.next(), rng_.next()});
    load_ = load();
    return r;
  }

  TransferReport transfer_report() {
    TransferReport r;
    auto& [transfer, request_, ok, error, bytes, duration_, exposed, lane] = r;
    transfer = id<TransferId>();
    request_ = id<RequestId>();
    ok = flip();
    error = text();
    bytes = rng_.next();
    duration_ = duration();
    exposed = duration();
    lane = name();
    return r;
  }

  PeerReport peer_report() {
    PeerReport r;
    auto& [peer, connected, lane, error, rate, latency, over] = r;
    peer = ref();
    connected = flip();
    lane = name();
    error = text();
    rate = rng_.next_double() * 1e12;
    latency = duration();
    over = flip();
    return r;
  }

  bool flip() { return rng_.below(2) == 1; }
  int32_t count(uint64_t below = uint64_t{1} << 31) { return static_cast<int32_t>(rng_.below(below)); }
  float real(double low, double high) { return static_cast<float>(low + (high - low) * rng_.next_double()); }
  Duration duration() { return Duration(rng_.below(uint64_t{3600} * 1'000'000'000)); }
  template <class I>
  I id() {
    return I(static_cast<typename I::rep>(rng_.next()));
  }
  template <class E>
  E pick(int values) {
    return static_cast<E>(rng_.below(values));
  }
  std::vector<TokenId> tokens(uint64_t n) {
    std::vector<TokenId> out(n);
    for (TokenId& t : out) t = count();
    return out;
  }
  std::string name() {
    static constexpr std::string_view kBytes =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    std::string out(1 + rng_.below(63), 'x');
    for (char& c : out) c = kBytes[rng_.below(kBytes.size())];
    return out;
  }
  // Any bytes, UTF-8 or not.
  std::string text() {
    std::string out(rng_.below(40), '\0');
    for (char& c : out) c = static_cast<char>(rng_.below(256));
    return out;
  }

  Rng rng_;
};

}  // namespace baton::transport
