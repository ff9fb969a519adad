#include "cli/observers.h"

#include "base/log.h"

namespace baton::cli {

using namespace coordinator;

namespace {

int64_t ms(Duration d) { return std::chrono::duration_cast<std::chrono::milliseconds>(d).count(); }

// Paths are a closed set except for the reasons of fall-backs, which are words of the program.
std::string path_label(const std::string& path) { return path.empty() ? "none" : path; }

}  // namespace

FlowMetrics::FlowMetrics(Metrics& metrics) : metrics_(metrics) {
  for (const char* path : {"remote-prefill", "local"}) {
    metrics_.touch(Metric::kDecisions, {path});
    metrics_.touch(Metric::kTtft, {path});
    metrics_.touch(Metric::kE2e, {path});
  }
  for (const char* source : {"computed", "local_cache"}) metrics_.touch(Metric::kPromptTokens, {source});
  for (const char* lane : {"local", "socket", "socket-tls", "am", "get"}) {
    metrics_.touch(Metric::kKvTransferBytes, {lane});
    metrics_.touch(Metric::kKvTransfer, {lane});
    metrics_.touch(Metric::kKvTransferExposed, {lane});
  }
}

void FlowMetrics::on_route(RequestId, const Route& route) {
  metrics_.add(Metric::kDecisions, 1, {route.path});
}

void FlowMetrics::on_tokens(RequestId, int32_t count, bool, Duration) {
  metrics_.add(Metric::kGenerationTokens, count);
}

void FlowMetrics::on_transfer(const WorkerRef& receiver, const TransferReport& report) {
  if (!report.ok) {
    metrics_.add(Metric::kKvTransferFailures, 1);
    log_warn("KV transfer failed", {{"receiver", receiver.name}, {"why", report.error}});
    return;
  }
  metrics_.add(Metric::kKvTransferBytes, static_cast<double>(report.bytes), {report.lane});
  metrics_.observe(Metric::kKvTransfer, to_seconds(report.duration), {report.lane});
  metrics_.observe(Metric::kKvTransferExposed, to_seconds(report.exposed), {report.lane});
}

void FlowMetrics::on_link(const WorkerRef& worker, const PeerReport& report) {
  std::string& lane = lanes_[{worker.name, report.peer.name}];
  // A pair that parted, or met again over another lane, leaves no old rate behind.
  if (!lane.empty() && (!report.connected || lane != report.lane)) {
    metrics_.set(Metric::kKvLinkRate, 0, {worker.name, report.peer.name, lane});
    metrics_.set(Metric::kKvLinkLatency, 0, {worker.name, report.peer.name, lane});
  }
  lane = report.connected ? report.lane : "";
  if (!report.connected) return;
  metrics_.set(Metric::kKvLinkRate, report.bytes_per_second, {worker.name, report.peer.name, lane});
  metrics_.set(Metric::kKvLinkLatency, to_seconds(report.latency), {worker.name, report.peer.name, lane});
}

void FlowMetrics::forget_links(const std::string& worker) {
  for (auto& [pair, lane] : lanes_) {
    if ((pair.first != worker && pair.second != worker) || lane.empty()) continue;
    metrics_.set(Metric::kKvLinkRate, 0, {pair.first, pair.second, lane});
    metrics_.set(Metric::kKvLinkLatency, 0, {pair.first, pair.second, lane});
    lane.clear();
  }
}

void FlowMetrics::on_end(const RequestRecord& r) {
  if (r.first_token != kNever) {
    metrics_.observe(Metric::kQueueWait, to_seconds(r.times.queue));
    metrics_.observe(Metric::kPrefill, to_seconds(r.times.prefill));
    metrics_.add(Metric::kPromptTokens, r.usage.cached_tokens, {"local_cache"});
    metrics_.add(Metric::kPromptTokens, r.usage.prompt_tokens - r.usage.cached_tokens, {"computed"});
    metrics_.observe(Metric::kRequestPromptTokens, r.usage.prompt_tokens);
    metrics_.observe(Metric::kRequestGenerationTokens, r.usage.completion_tokens);
  }
  log_info("request ended", {{"request", r.trace_id},
                             {"status", std::string(absl::StatusCodeToString(r.status.code()))},
                             {"why", std::string(r.status.message())},
                             {"path", r.verdict.path},
                             {"prefill_worker", r.verdict.prefill_worker},
                             {"decode_worker", r.verdict.decode_worker},
                             {"prompt_tokens", r.usage.prompt_tokens},
                             {"cached_tokens", r.usage.cached_tokens},
                             {"completion_tokens", r.usage.completion_tokens},
                             {"queue_ms", ms(r.times.queue)},
                             {"prefill_ms", ms(r.times.prefill)},
                             {"transfer_ms", ms(r.times.transfer)},
                             {"transfer_exposed_ms", ms(r.times.transfer_exposed)},
                             {"retries", r.retries},
                             {"moves", r.verdict.moves}});
}

void FlowMetrics::on_membership(const MembershipDecision& decision) {
  if (const auto* up = std::get_if<WorkerUp>(&decision)) {
    log_info("worker up", {{"name", up->worker.ref.name},
                           {"incarnation", up->worker.ref.incarnation.value()},
                           {"device", up->worker.device},
                           {"numerics", up->worker.numerics_id},
                           {"kv_layout", up->worker.kv_layout_hash}});
  } else if (const auto* lost = std::get_if<WorkerLost>(&decision)) {
    forget_links(lost->worker.name);
    log_warn(
        "worker lost",
        {{"name", lost->worker.name}, {"incarnation", lost->worker.incarnation.value()}, {"why", lost->why}});
  } else if (const auto* takes = std::get_if<WorkerTakesRequests>(&decision)) {
    log_info("worker", {{"name", takes->worker.name}, {"takes_requests", takes->takes}});
  }
}

GatewayObserver gateway_observer(Metrics& metrics) {
  GatewayObserver observer;
  observer.on_request_done = [&metrics](const CallRecord& r) {
    const std::string path = path_label(r.verdict.path);
    metrics.add(Metric::kRequests, 1, {r.endpoint, std::to_string(r.status), r.outcome, path});
    if (r.ttft > Duration::zero()) metrics.observe(Metric::kTtft, to_seconds(r.ttft), {path});
    if (r.outcome == "ok" && !r.verdict.path.empty())
      metrics.observe(Metric::kE2e, to_seconds(r.e2e), {path});
    if (!r.tenant.empty()) {
      metrics.add(Metric::kTenantRequests, 1, {r.tenant, std::to_string(r.status)});
      metrics.add(Metric::kTenantTokens, r.usage.prompt_tokens, {r.tenant, "prompt"});
      metrics.add(Metric::kTenantTokens, r.usage.cached_tokens, {r.tenant, "cached"});
      metrics.add(Metric::kTenantTokens, r.usage.completion_tokens, {r.tenant, "generated"});
    }
    log_info("call answered", {{"request", r.request_id},
                               {"tenant", r.tenant},
                               {"endpoint", r.endpoint},
                               {"status", r.status},
                               {"outcome", r.outcome},
                               {"path", r.verdict.path},
                               {"ttft_ms", ms(r.ttft)},
                               {"e2e_ms", ms(r.e2e)}});
  };
  observer.on_inter_token = [&metrics](Duration gap) { metrics.observe(Metric::kItl, to_seconds(gap)); };
  observer.on_unknown_field = [&metrics](std::string_view) { metrics.add(Metric::kUnknownFields, 1); };
  observer.on_disconnect = [&metrics](std::string_view) { metrics.add(Metric::kClientDisconnects, 1); };
  return observer;
}

}  // namespace baton::cli
