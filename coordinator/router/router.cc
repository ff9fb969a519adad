#include "coordinator/router/router.h"

#include <algorithm>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"

namespace baton::coordinator {
namespace {

bool contains(std::span<const WorkerRef> refs, const WorkerRef& ref) {
  return std::ranges::find(refs, ref) != refs.end();
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool can_prefill(const WorkerDescription& w) { return w.role != WorkerRole::kDecode; }
bool can_decode(const WorkerDescription& w) { return w.role != WorkerRole::kPrefill; }

bool has_snapshot(const LoadSnapshot& load) {
  return load.blocks_free + load.blocks_cached + load.blocks_active + load.blocks_inflight +
             load.blocks_quarantined >
         0;
}

bool has_step_model(const LoadSnapshot& load) { return load.prefill_seconds_per_token > 0; }

absl::Status silent(const std::string& name) {
  return absl::UnavailableError(absl::StrCat(name, " is silent, and nobody else does what it does"));
}

// What the caller should do when nobody can take it: the nearest obstacle decides.
absl::Status nobody(const std::vector<CandidateTerms>& candidates) {
  Rejection nearest = Rejection::kTooLong;
  for (const CandidateTerms& c : candidates) nearest = std::min(nearest, c.rejection);
  switch (nearest) {
    case Rejection::kBusy:
      return absl::AbortedError("its former workers have not let go of it yet");
    case Rejection::kNoBlocks:
      return absl::ResourceExhaustedError("no worker has room for its KV now");
    case Rejection::kLinkPending:
      return absl::UnavailableError("prefill and decode workers are connecting");
    case Rejection::kTooLong:
      return absl::InvalidArgumentError("the request fits no worker");
    default:
      return absl::UnavailableError("no prefill and decode worker can be paired");
  }
}

}  // namespace

const char* to_string(Rejection rejection) {
  switch (rejection) {
    case Rejection::kNone:
      return "ok";
    case Rejection::kBusy:
      return "busy";
    case Rejection::kNoBlocks:
      return "no-blocks";
    case Rejection::kLinkPending:
      return "link-pending";
    case Rejection::kLinkDown:
      return "no-link";
    case Rejection::kIncompatible:
      return "incompatible";
    case Rejection::kTooLong:
      return "too-long";
  }
  return "?";
}

std::string to_string(const CandidateTerms& t) {
  return absl::StrFormat(
      "%s -> %s total %.6f = queue %.6f + prefill %.6f - cached %.6f (%d tokens) + delay %.6f "
      "+ transfer %.6f + decode %.6f; step %.6f%s blocks %d/%d %s",
      t.prefill.name, t.decode.name, t.total_seconds(), t.queue_seconds, t.prefill_seconds, t.cached_seconds,
      t.cached_tokens, t.delay_seconds, t.transfer_seconds, t.decode_seconds, t.decode_step_seconds,
      t.over_itl ? " (over ITL)" : "", t.blocks_needed, t.blocks_available, to_string(t.rejection));
}

std::string Route::explain() const {
  std::string out = absl::StrCat(path, "\n");
  for (size_t i = 0; i < candidates.size(); ++i)
    absl::StrAppend(&out, i == chosen ? "* " : "  ", to_string(candidates[i]), "\n");
  return out;
}

// One worker as this request sees it; computed once per decision, used in every pair.
struct Router::WorkerTerms {
  const WorkerDescription* description = nullptr;
  LoadSnapshot step;    // only the three numbers of the step model
  int32_t rows = 0;     // sequences decoding there, as predicted
  int32_t running = 0;  // of them those that do already
  int32_t cached_tokens = 0;
  double queue_seconds = 0;
  int64_t blocks_needed = 0;  // beyond those it holds of this prompt
  int64_t blocks_available = 0;
  bool too_long = false;
  bool busy = false;
  bool silent = false;
};

double Router::prefill_seconds(const WorkerTerms& w, int64_t tokens) const {
  if (tokens <= 0) return 0;
  const auto steps = static_cast<double>(ceil_div(tokens, options_.chunk_tokens));
  const double other_rows = w.rows * w.step.decode_seconds_per_sequence;
  return steps * (w.step.step_base_seconds + other_rows) +
         static_cast<double>(tokens) * w.step.prefill_seconds_per_token;
}

Router::WorkerTerms Router::worker_terms(const RouteRequest& request, const RoutableWorker& worker) const {
  const WorkerDescription& d = *worker.description;
  const LoadSnapshot& load = worker.load;
  const LegCost unseen = assignments_.unseen(d.ref);
  const int32_t block_tokens = std::max(d.block_tokens, 1);

  WorkerTerms w{.description = &d, .step = has_step_model(load) ? load : options_.default_step};
  w.running = load.running;
  w.rows = std::max(load.running + unseen.decodes, assignments_.decodes(d.ref));
  for (const PromptChain& chain : request.chains) {
    if (chain.block_tokens != d.block_tokens) continue;
    w.cached_tokens = std::min(prefixes_.cached_blocks(d.ref, chain.hashes) * block_tokens,
                               std::max(request.prompt_tokens - 1, 0));  // the last row is always computed
  }
  w.queue_seconds = prefill_seconds(w, load.waiting_prompt_tokens + unseen.prefill_tokens);
  // The prompt and the block of the first token to come.
  const int64_t blocks = ceil_div(int64_t{request.prompt_tokens} + 1, block_tokens);
  w.blocks_needed = blocks - w.cached_tokens / block_tokens;
  w.blocks_available =
      (has_snapshot(load) ? load.blocks_free + load.blocks_cached : d.blocks_total) - unseen.blocks;
  const int64_t longest = int64_t{request.prompt_tokens} + request.max_tokens;
  w.too_long = blocks > d.blocks_total || (d.context_tokens > 0 && longest > d.context_tokens);
  w.busy = contains(request.busy, d.ref);
  w.silent = worker.silent;
  return w;
}

double Router::transfer_seconds(const WorkerTerms& decode, const PeerLink& link, int32_t prompt_tokens,
                                double hidden_seconds) const {
  const double start = options_.transfer_start_seconds + to_seconds(link.latency);
  const auto learned = kv_bytes_per_token_.find(decode.description->kv_layout_hash);
  if (learned == kv_bytes_per_token_.end() || link.bytes_per_second <= 0) return start;
  const double bytes = learned->second * (prompt_tokens - decode.cached_tokens);
  const double all = bytes / link.bytes_per_second;
  // Layers travel while later ones are computed: only the last layer, or what prefill is too short for, is
  // seen.
  return start + std::max(all / std::max(options_.layers, 1), all - hidden_seconds);
}

CandidateTerms Router::candidate(const RouteRequest& request, const WorkerTerms& prefill,
                                 const WorkerTerms& decode, const PeerLinks& links) const {
  const WorkerDescription& p = *prefill.description;
  const WorkerDescription& d = *decode.description;
  CandidateTerms t{.prefill = p.ref, .decode = d.ref};
  t.cached_tokens = prefill.cached_tokens;
  t.decode_cached_tokens = decode.cached_tokens;
  t.blocks_needed = decode.blocks_needed;
  t.blocks_available = decode.blocks_available;
  t.queue_seconds = prefill.queue_seconds;
  t.prefill_seconds = prefill_seconds(prefill, request.prompt_tokens);
  const double computed = prefill_seconds(prefill, request.prompt_tokens - prefill.cached_tokens);
  t.cached_seconds = t.prefill_seconds - computed;
  t.decode_step_seconds =
      decode.step.step_base_seconds + (decode.rows + 1) * decode.step.decode_seconds_per_sequence;
  t.decode_seconds = std::min(request.max_tokens, options_.expected_output_tokens) * t.decode_step_seconds;
  t.over_itl = t.decode_step_seconds > options_.itl_objective_seconds;

  PeerLink link;
  const bool whole = &prefill == &decode;
  if (whole && may_prefill(request, decode)) t.delay_seconds = decode.running * computed;
  if (!whole) {
    link = links.link(p.ref, d.ref);
    t.transfer_seconds = transfer_seconds(decode, link, request.prompt_tokens, computed);
  }
  const bool equal = p.model_hash == d.model_hash && p.kv_layout_hash == d.kv_layout_hash &&
                     p.numerics_id == d.numerics_id && p.block_tokens == d.block_tokens;
  if (prefill.too_long || decode.too_long) {
    t.rejection = Rejection::kTooLong;
  } else if (!whole && !equal) {
    t.rejection = Rejection::kIncompatible;
  } else if (!whole && (link.state == PeerLink::State::kDown || link.state == PeerLink::State::kAbsent)) {
    t.rejection = Rejection::kLinkDown;
  } else if (!whole && link.state == PeerLink::State::kPending) {
    t.rejection = Rejection::kLinkPending;
  } else if (decode.blocks_needed > decode.blocks_available) {
    t.rejection = Rejection::kNoBlocks;
  } else if (prefill.busy || decode.busy) {
    t.rejection = Rejection::kBusy;
  }
  return t;
}

absl::StatusOr<Route> Router::choose(const RouteRequest& request, const std::vector<WorkerTerms>& workers,
                                     const PeerLinks& links, const Plan& plan) const {
  Route route;
  route.candidates.reserve(plan.pairs.size());
  for (const auto& [p, d] : plan.pairs)
    route.candidates.push_back(candidate(request, workers[p], workers[d], links));
  const auto rank = [](const CandidateTerms& c) {
    return std::tuple<bool, bool, double, const WorkerRef&, const WorkerRef&>(
        c.rejection != Rejection::kNone, c.over_itl, c.total_seconds(), c.prefill, c.decode);
  };
  const auto best = std::ranges::min_element(route.candidates,
                                             [&](const auto& a, const auto& b) { return rank(a) < rank(b); });
  if (best == route.candidates.end() || best->rejection != Rejection::kNone) return nobody(route.candidates);
  route.chosen = static_cast<size_t>(best - route.candidates.begin());
  route.prefill = best->prefill;
  route.decode = best->decode;
  route.path = route.whole() ? plan.whole_path : "remote-prefill";
  return route;
}

// A decode worker that takes a short prompt: the engine's chunks stay within the inter-token objective there
// as everywhere.
bool Router::may_prefill(const RouteRequest& request, const WorkerTerms& decode) const {
  return !can_prefill(*decode.description) && options_.decode_prefill_tokens > 0 &&
         request.prompt_tokens - decode.cached_tokens <= options_.decode_prefill_tokens;
}

absl::StatusOr<Route> Router::route_among(const RouteRequest& request,
                                          const std::vector<WorkerTerms>& workers,
                                          const PeerLinks& links) const {
  std::vector<size_t> prefills, decodes;
  std::string silent_prefill, silent_decode;  // names
  for (size_t i = 0; i < workers.size(); ++i) {
    const WorkerDescription& d = *workers[i].description;
    if (can_prefill(d) && workers[i].silent) silent_prefill = d.ref.name;
    if (can_prefill(d) && !workers[i].silent) prefills.push_back(i);
    if (can_decode(d) && workers[i].silent) silent_decode = d.ref.name;
    if (can_decode(d) && !workers[i].silent) decodes.push_back(i);
  }
  if (prefills.empty() && decodes.empty()) return absl::UnavailableError("no worker is ready");
  const auto whole_on = [&](const std::vector<size_t>& who, std::string path) {
    Plan plan{.pairs = {}, .whole_path = std::move(path)};
    for (const size_t w : who) plan.pairs.emplace_back(w, w);
    return choose(request, workers, links, plan);
  };
  if (!request.whole_because.empty())
    return whole_on(decodes.empty() ? prefills : decodes, absl::StrCat("fallback:", request.whole_because));
  if (prefills.empty() && !silent_prefill.empty()) return silent(silent_prefill);
  if (decodes.empty() && !silent_decode.empty()) return silent(silent_decode);
  if (prefills.empty()) return whole_on(decodes, "fallback:no-prefill-worker");
  if (decodes.empty()) return whole_on(prefills, "fallback:no-decode-worker");
  if (request.prompt_tokens < options_.min_prompt_tokens) return whole_on(decodes, "local");

  Plan plan{.pairs = {}, .whole_path = "local"};
  bool can_pair = false;  // some pair could ever work, or an `any` worker serves alone
  bool compatible = false;
  for (const size_t p : prefills) {
    for (const size_t d : decodes) {
      plan.pairs.emplace_back(p, d);
      const Rejection r = candidate(request, workers[p], workers[d], links).rejection;
      compatible = compatible || r != Rejection::kIncompatible;
      can_pair = can_pair || (r != Rejection::kLinkDown && r != Rejection::kIncompatible);
    }
  }
  if (!can_pair) return whole_on(decodes, compatible ? "fallback:no-link" : "fallback:incompatible-workers");
  // Not while a prefill worker is idle: whoever fenced decode workers off wants their streams undisturbed.
  const auto has_queue = [&](size_t p) { return workers[p].queue_seconds > 0; };
  if (std::ranges::all_of(prefills, has_queue))
    for (const size_t d : decodes)
      if (may_prefill(request, workers[d])) plan.pairs.emplace_back(d, d);
  return choose(request, workers, links, plan);
}

absl::StatusOr<Route> Router::route(const RouteRequest& request, std::span<const RoutableWorker> workers,
                                    const PeerLinks& links) const {
  std::vector<WorkerTerms> all, preferred;
  for (const RoutableWorker& w : workers) {
    all.push_back(worker_terms(request, w));
    if (!contains(request.avoid, w.description->ref)) preferred.push_back(all.back());
  }
  auto route = route_among(request, preferred, links);
  const bool hopeless = absl::IsUnavailable(route.status()) || absl::IsInvalidArgument(route.status());
  if (hopeless && preferred.size() < all.size()) return route_among(request, all, links);
  return route;
}

void Router::assign(RequestId request, const RouteRequest& facts, const Route& route) {
  const CandidateTerms& t = route.terms();
  const int64_t prefill_tokens = facts.prompt_tokens - t.cached_tokens;
  if (route.whole()) {
    assignments_.assign(request, route.decode, {prefill_tokens, t.blocks_needed, 1});
    return;
  }
  // Prefill takes its blocks chunk by chunk, when it gets to them: they are no reason to stay away.
  assignments_.assign(request, route.prefill, {prefill_tokens, 0, 0});
  assignments_.assign(request, route.decode, {0, t.blocks_needed, 1});
}

void Router::observe_transfer(const std::string& kv_layout_hash, uint64_t bytes, int64_t tokens) {
  if (bytes == 0 || tokens <= 0) return;
  kv_bytes_per_token_[kv_layout_hash] = static_cast<double>(bytes) / static_cast<double>(tokens);
}

void Router::forget(const WorkerRef& worker) {
  prefixes_.forget(worker);
  assignments_.forget(worker);
}

}  // namespace baton::coordinator
