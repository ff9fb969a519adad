// One worker process: makes its parts, starts its threads, ends them.
//
//   thread     loop                                   owns
//   engine     worker/engine/engine_loop              sequences, blocks, the model
//   progress   worker/kv_transfer/kv_exchange_agent   connections to peers, transfers
//   copier     worker/kv_transfer/host_copier         KV blocks in host memory
//   control    worker/control                         which coordinator owns which request
//   grammar    worker/grammar                         nothing: compiles what requests bring
//   http       coordinator/gateway/http_server        /metrics, /live, /ready of this worker
//   results    worker/parallel/result_outbox          a pipeline's logits on their way to rank 0
//   pulse      worker/parallel/rank_pulse             what the ranks of a group said with their last beat
//   (the backend's pool computes inside an engine step; gRPC's own threads post to control)
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <optional>

#include "base/agent.h"
#include "base/cat.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/timers.h"
#include "cli/cluster/home.h"
#include "cli/cluster/host_address.h"
#include "cli/cluster/incarnation.h"
#include "cli/cluster/process.h"
#include "cli/cluster/version.h"
#include "cli/control_security.h"
#include "cli/worker_parts.h"
#include "coordinator/gateway/http_server.h"
#include "transport/messages/life_over.h"
#include "worker/control/worker_control.h"

namespace baton::cli {
namespace {

using coordinator::Exchange;
using coordinator::HttpAnswer;
using coordinator::RouteRole;

// To whoever started this process.
void report(int fd, std::string_view line) {
  if (fd >= 0) (void)!::write(fd, line.data(), line.size());
}

void set_prediction(Metrics& m, const worker::EngineCounters& c) {
  m.raise(Metric::kStepPredictedSeconds, c.predicted_seconds);
  m.set(Metric::kStepPredictionError, c.prediction_error_p50, {"50"});
  m.set(Metric::kStepPredictionError, c.prediction_error_p95, {"95"});
  for (size_t i = 0; i < c.step_coefficients.size(); ++i)
    m.set(Metric::kStepCoefficient, c.step_coefficients[i], {worker::StepTime::kTermNames[i]});
  m.set(Metric::kChunkTokens, c.last_chunk_tokens);
}

// What each rank of the group said with its last beat, and which part of the layers it has.
void set_ranks(Metrics& m, const WorkerParts& parts, const worker::RankPulse* pulse) {
  if (pulse == nullptr) return;
  const std::vector<worker::RankReport> reports = pulse->reports();
  for (size_t rank = 0; rank < reports.size(); ++rank) {
    const worker::RankReport& r = reports[rank];
    const std::string label = std::to_string(rank);
    m.set(Metric::kRankLayers, parts.layers_of(static_cast<int>(rank)), {label});
    m.raise(Metric::kRankSteps, static_cast<double>(r.steps), {label});
    m.raise(Metric::kRankBusySeconds, 1e-9 * static_cast<double>(r.step_nanoseconds - r.link_nanoseconds),
            {label});
    m.raise(Metric::kRankLinkSeconds, 1e-9 * static_cast<double>(r.link_nanoseconds), {label});
    m.raise(Metric::kRankKvStreams, static_cast<double>(r.kv_landed), {label, "landed"});
    m.raise(Metric::kRankKvStreams, static_cast<double>(r.kv_sent), {label, "sent"});
    m.raise(Metric::kRankKvStreams, static_cast<double>(r.kv_failed), {label, "failed"});
    m.raise(Metric::kRankKvReceivedBytes, static_cast<double>(r.kv_bytes_received), {label});
    m.raise(Metric::kRankKvRefusedPieces, static_cast<double>(r.kv_refused), {label});
  }
}

// KV in host memory.
void set_host_tier(Metrics& m, const worker::EngineCounters& c, const WorkerParts& parts) {
  if (parts.host_copier == nullptr) return;
  const auto block_bytes = static_cast<double>(parts.block_bytes.all);
  m.set(Metric::kKvHostBlocks, static_cast<double>(c.host_blocks));
  m.raise(Metric::kKvHostCopiedBlocks, static_cast<double>(c.host.blocks_out), {"out"});
  m.raise(Metric::kKvHostCopiedBlocks, static_cast<double>(c.host.blocks_in), {"in"});
  m.raise(Metric::kKvHostCopiedBytes, block_bytes * static_cast<double>(c.host.blocks_out), {"out"});
  m.raise(Metric::kKvHostCopiedBytes, block_bytes * static_cast<double>(c.host.blocks_in), {"in"});
  m.raise(Metric::kKvHostLostBlocks, static_cast<double>(c.host.lost));
  m.raise(Metric::kKvHostHitTokens, static_cast<double>(c.host_hit_tokens));
  m.raise(Metric::kKvHostWaitSeconds, c.host_wait_seconds);
  m.raise(Metric::kKvHostFetchesFailed, static_cast<double>(c.host_fetches_failed));
}

// Where a worker's /metrics come from.
struct Counted {
  const WorkerParts& parts;
  const worker::EngineLoop& loop;
  const worker::RankPulse* pulse;                   // nullptr in a worker of one rank
  const transport::CertificateWatch* certificates;  // nullptr without TLS
};

// The engine's counters as metrics, each time somebody asks.
std::string metrics_text(Metrics& m, const Counted& counted) {
  const auto& [parts, loop, pulse, certificates] = counted;
  const worker::EngineStatus status = loop.status();
  const worker::EngineCounters& c = status.counters;
  const LoadSnapshot& load = status.load;
  const std::string& name = parts.description.ref.name;
  m.set(Metric::kBuildInfo, 1, {kVersion});
  m.raise(Metric::kSteps, c.steps);
  m.raise(Metric::kStepSeconds, c.step_seconds);
  m.raise(Metric::kHostSeconds, status.host_seconds);
  m.raise(Metric::kPlanningSeconds, status.planning_seconds);
  m.raise(Metric::kLinkSeconds, status.link_seconds);
  m.raise(Metric::kActiveSeconds, status.active_seconds);
  set_ranks(m, parts, pulse);
  set_prediction(m, c);
  m.set(Metric::kBatchSize, c.last_batch_rows);
  m.raise(Metric::kEnginePrefillTokens, c.prefill_tokens);
  m.raise(Metric::kEngineDecodeTokens, c.decode_tokens);
  m.raise(Metric::kPreemptions, c.preemptions);
  m.raise(Metric::kKvEvictions, c.evictions);
  set_host_tier(m, c, parts);
  m.raise(Metric::kPrefixQueryTokens, c.prefix_query_tokens);
  m.raise(Metric::kPrefixHitTokens, c.prefix_hit_tokens);
  m.set(Metric::kKvBlocks, load.blocks_free, {name, "free"});
  m.set(Metric::kKvBlocks, load.blocks_cached, {name, "cached"});
  m.set(Metric::kKvBlocks, load.blocks_active, {name, "active"});
  m.set(Metric::kKvBlocks, load.blocks_inflight, {name, "in_transfer"});
  m.set(Metric::kKvBlocks, load.blocks_quarantined, {name, "quarantine"});
  m.set(Metric::kTransfersOpen, load.transfers_open);
  m.set(Metric::kSequencesRunning, load.running);
  m.set(Metric::kSequencesWaiting, load.waiting);
  set_certificate_metrics(m, certificates);
  return m.render();
}

absl::StatusOr<std::unique_ptr<coordinator::HttpServer>> listen_http(const Counted& counted,
                                                                     Metrics& metrics) {
  coordinator::RouteTable routes;
  const auto get = [&routes](const char* path, std::function<HttpAnswer()> make) {
    return routes.add(
        {"GET", path, RouteRole::kPublic, [make](std::shared_ptr<Exchange> e) { e->answer(make()); }});
  };
  RETURN_IF_ERROR(get("/metrics", [&metrics, counted] {
    return HttpAnswer{.content_type = "text/plain; version=0.0.4", .body = metrics_text(metrics, counted)};
  }));
  RETURN_IF_ERROR(get("/live", [&parts = counted.parts, &loop = counted.loop] {
    // Whoever asks ends what is not live. No step may take longer than a request: it will not end.
    const bool live = !worker::step_overdue(loop.status(), parts.clock.now(), timers::kRequestTotal);
    return HttpAnswer{
        .status = live ? 200 : 503, .content_type = "text/plain", .body = live ? "live\n" : "stuck\n"};
  }));
  RETURN_IF_ERROR(get("/ready", [&parts = counted.parts, &loop = counted.loop] {
    // Ready: not draining, and the loop turned recently or has nothing to do.
    const worker::EngineStatus s = loop.status();
    const bool stuck = worker::step_overdue(s, parts.clock.now(), timers::kDead * 10);
    return HttpAnswer{.status = s.draining || stuck ? 503 : 200,
                      .content_type = "text/plain",
                      .body = s.draining ? "draining\n"
                              : stuck    ? "stuck\n"
                                         : "ready\n"};
  }));
  const std::string& address = counted.parts.addresses.metrics_listen;
  const auto at = split_host_port(address);
  if (!at) return absl::InternalError(cat("metrics: no address: ", address));
  return coordinator::HttpServer::listen(
      {.address = at->host, .port = static_cast<uint16_t>(at->port)}, std::move(routes),
      {.clock = &counted.parts.clock, .random = random_source(), .unix_time = unix_time_source()});
}

struct WorkerProcess {
  std::unique_ptr<worker::WorkerControl> control;  // filled in before the progress thread starts
  std::unique_ptr<WorkerParts> parts;
  std::unique_ptr<transport::CertificateWatch> certificates;
  Metrics metrics{MetricProcess::kWorker};
  std::unique_ptr<worker::EngineLoop> loop;
  std::unique_ptr<worker::RankPulse> pulse;         // of a group
  std::unique_ptr<worker::GrammarThread> grammars;  // of rank 0
  std::unique_ptr<coordinator::HttpServer> http;
  std::atomic<bool> engine_over = false;
  std::atomic<bool> given_up =
      false;  // the coordinator takes this life for over: only a new process may join
  std::atomic<bool> rank_lost = false;

  absl::Status make(const WorkerOptions& options);
  int run(int report_fd);
  void wait_for_end(int report_fd);
  // What the engine's end means for the process.
  int exit_code(const absl::Status& end) const;
  // Of a rank that is not the first: it computes what rank 0 says, and ends with it.
  int follow();
  // A clock behind the one of earlier lives: the next one takes a larger number than those.
  void remember_lives(const absl::Status& refusal) const;
  // A rank's pulse, from when all ranks have loaded until this one ends.
  void make_pulse();
  worker::RankReport own_report() const;
  std::unique_ptr<AgentThread> start_pulse();
  std::unique_ptr<AgentThread> start_copier();
  void on_rank_lost(const std::string& why);
  void make_progress(const std::stop_token& stop);
  // Refuses new work, lets the engine finish what it has, at most timers::kDrainCap.
  void drain();
  // False when it stands in a step, which nothing interrupts.
  bool engine_ends() const;
};

absl::Status WorkerProcess::make(const WorkerOptions& options) {
  ASSIGN_OR_RETURN(
      parts,
      WorkerParts::make(options, {.peers = [this](const PeerReport& report) { control->on_peer(report); },
                                  .lost = [this](const std::string& why) { on_rank_lost(why); }}));
  certificates = watch_certificates(parts->manifest.control, ControlSide::kWorker);
  if (parts->follower != nullptr) {
    make_pulse();
    return absl::OkStatus();
  }
  worker::EngineLoop::Parts loop_parts{*parts->engine, *parts->runner, *parts->mailbox, parts->clock,
                                       parts->ahead.get()};
  loop = std::make_unique<worker::EngineLoop>(loop_parts,
                                              [this](std::vector<WorkerMessage>& m) { control->publish(m); });
  make_pulse();
  ASSIGN_OR_RETURN(http, listen_http({*parts, *loop, pulse.get(), certificates.get()}, metrics));
  parts->description.metrics_address = join_host_port(parts->addresses.metrics_host, http->port());
  worker::WorkerControlOptions control_options{
      .worker = parts->description,
      .listen = parts->addresses.control_listen,
      .advertise = parts->addresses.control_host,
      .join = parts->join,
      .security = security_of(parts->manifest.control, ControlSide::kWorker)};
  grammars = std::make_unique<worker::GrammarThread>(
      *parts->masks, [this](RequestId request) { control->on_grammar(request); });
  worker::WorkerControlParts control_parts{
      .engine = *parts->mailbox,
      .engine_status = [this] { return loop->status(); },
      .connect_peer = [this](const WorkerDescription& peer) { return parts->exchange->connect(peer); },
      .fence_peer = [this](const WorkerRef& peer) { return parts->exchange->fence(peer); },
      .on_fenced =
          [this](const absl::Status& why) {
            remember_lives(why);
            given_up = true;
            std::fprintf(stderr, "this life was given up (it comes back as a new one): %s\n",
                         std::string(why.message()).c_str());
            ::kill(::getpid(), SIGTERM);
          },
      .compile = [this](RequestId id, const Grammar& g) { return grammars->compile(id, g); },
      .forget_grammar = [this](RequestId request) { parts->masks->forget(request); },
      .clock = parts->clock};
  ASSIGN_OR_RETURN(control, worker::WorkerControl::start(control_options, control_parts));
  return absl::OkStatus();
}

void WorkerProcess::remember_lives(const absl::Status& refusal) const {
  const auto over = youngest_life_over(refusal);
  if (!over) return;
  const absl::Status s = remember_life(Home::from_environment(), parts->description.ref.name, *over);
  if (!s.ok()) log_warn("lives that are over are not remembered", {{"why", std::string(s.message())}});
}

void WorkerProcess::make_pulse() {
  if (parts->group == nullptr) return;
  pulse = parts->group->make_pulse(parts->clock, [this] { return own_report(); });
}

worker::RankReport WorkerProcess::own_report() const {
  const worker::KvTransferCounters& kv = parts->exchange->counters();
  worker::RankReport out{.kv_landed = kv.landed,
                         .kv_sent = kv.sent,
                         .kv_failed = kv.failed + kv.send_failed,
                         .kv_bytes_received = kv.bytes_received,
                         .kv_refused = kv.refused_pieces + kv.corrupt_pieces};
  if (parts->follower != nullptr) {
    const worker::FollowerStatus s = parts->follower->status();
    out.steps = s.steps;
    out.step_nanoseconds = s.time.steps.count();
    out.link_nanoseconds = s.time.links.count();
  } else {
    const worker::EngineStatus s = loop->status();
    out.steps = s.counters.steps;
    out.step_nanoseconds = from_seconds(s.step_seconds).count();
    out.link_nanoseconds = from_seconds(s.link_seconds).count();
  }
  return out;
}

std::unique_ptr<AgentThread> WorkerProcess::start_pulse() {
  if (pulse == nullptr) return nullptr;
  return std::make_unique<AgentThread>("pulse", [this](const std::stop_token& stop) {
    if (const absl::Status end = pulse->run(stop); !end.ok())
      log_info("the group's pulse ends", {{"why", end.ToString()}});
  });
}

std::unique_ptr<AgentThread> WorkerProcess::start_copier() {
  if (parts->host_copier == nullptr) return nullptr;
  return std::make_unique<AgentThread>(
      "copier", [this](const std::stop_token& stop) { parts->host_copier->run(stop); });
}

// Its blocks cannot be vouched for any more: this life of the worker is over (design I2).
void WorkerProcess::on_rank_lost(const std::string& why) {
  if (engine_over || rank_lost.exchange(true)) return;
  log_error("a rank of this worker is lost", {{"why", why}});
  (void)parts->mailbox->post(worker::GiveUp{why});
  ::kill(::getpid(), SIGTERM);
}

void WorkerProcess::drain() {
  control->begin_drain();
  const Instant limit = parts->clock.now() + timers::kDrainCap;
  while (!engine_over && !loop->status().idle && parts->clock.now() < limit)
    if (wait_for_signal(std::chrono::milliseconds(20)) != 0) return;  // a second SIGTERM: at once
}

bool WorkerProcess::engine_ends() const {
  const Instant limit = parts->clock.now() + timers::kDrainCap;
  while (!engine_over && parts->clock.now() < limit) (void)wait_for_signal(std::chrono::milliseconds(20));
  return engine_over;
}

int WorkerProcess::exit_code(const absl::Status& end) const {
  if (rank_lost) return kExitRankLost;
  if (end.ok()) return given_up ? kExitFailed : kExitOk;  // who restarts what failed shall restart it
  const bool lost = absl::IsUnavailable(end) || absl::IsDeadlineExceeded(end);
  return parts->group != nullptr && lost ? kExitRankLost : kExitFailed;
}

void WorkerProcess::make_progress(const std::stop_token& stop) {
  while (!stop.stop_requested())
    if (parts->exchange->do_work(parts->clock.now()) == 0) parts->exchange->wait(parts->clock.now());
}

void WorkerProcess::wait_for_end(int report_fd) {
  bool told = report_fd < 0;
  while (wait_for_signal(told ? Duration(std::chrono::seconds(60)) : std::chrono::milliseconds(20)) == 0) {
    if (told) look_at_certificates(certificates.get());
    if (told || !control->joined()) continue;
    report(report_fd, "joined\n");
    told = true;
  }
}

int WorkerProcess::run(int report_fd) {
  log_info("worker ready to join", {{"device", parts->description.device},
                                    {"incarnation", parts->description.ref.incarnation.value()},
                                    {"control", control->worker().control_address},
                                    {"data", parts->description.data_address},
                                    {"coordinator", parts->join},
                                    {"tls", parts->manifest.control.tls.has_value()},
                                    {"numerics", parts->description.numerics_id},
                                    {"load_ms", 1e3 * to_seconds(parts->load_time)},
                                    {"memory", parts->memory_text()}});
  absl::Status engine_end;
  const auto pulse_thread = start_pulse();
  auto copier = start_copier();
  AgentThread progress("progress", [this](std::stop_token stop) { make_progress(stop); });
  AgentThread engine("engine", [&](std::stop_token stop) {
    engine_end = loop->run(stop);
    if (engine_end.ok() && parts->plans != nullptr) engine_end = parts->plans->stop();
    engine_over = true;
    if (!engine_end.ok()) ::kill(::getpid(), SIGTERM);  // this life is over: the supervisor starts another
  });
  AgentThread grammar_thread("grammar", [this](std::stop_token) { grammars->run(); });
  AgentThread control_thread("control", [this](std::stop_token stop) { control->run(stop); });
  AgentThread http_thread("http", [this](std::stop_token) { http->run(); });

  wait_for_end(report_fd);
  if (!rank_lost) drain();
  http->stop();
  control_thread.request_stop();
  engine.request_stop();
  parts->mailbox->close();
  if (given_up && !engine_ends()) {
    log_error("the engine stands still: this process ends without it");
    ::_exit(kExitFailed);
  }
  engine.join();
  if (copier != nullptr) parts->host_copier->close();
  copier.reset();
  progress.request_stop();
  parts->exchange->wake();
  progress.join();
  http_thread.join();
  control_thread.join();
  grammars->close();
  grammar_thread.join();
  log_info("worker stopped", {{"why", !engine_end.ok() ? engine_end.ToString()
                                      : given_up       ? "its life was given up"
                                                       : "asked to"}});
  return exit_code(engine_end);
}

int WorkerProcess::follow() {
  log_info("rank ready", {{"rank", parts->place.rank},
                          {"device", parts->description.device},
                          {"incarnation", parts->description.ref.incarnation.value()},
                          {"load_ms", 1e3 * to_seconds(parts->load_time)},
                          {"memory", parts->memory_text()}});
  absl::Status end;
  AgentThread progress("progress", [this](std::stop_token stop) { make_progress(stop); });
  std::optional<AgentThread> results;
  if (worker::ResultOutbox* outbox = parts->group->outbox())
    results.emplace("results", [outbox](const std::stop_token& stop) { outbox->run(stop); });
  const auto pulse_thread = start_pulse();
  auto copier = start_copier();
  AgentThread engine("engine", [&](std::stop_token stop) {
    end = parts->follower->run(stop);
    engine_over = true;
    ::kill(::getpid(), SIGTERM);
  });
  // Asked to end, it goes on until rank 0 says so or leaves: rank 0 may still have streams to finish.
  while (!engine_over) {
    if (wait_for_signal(std::chrono::seconds(60)) == 0)
      look_at_certificates(certificates.get());
    else if (!engine_over)
      log_info("rank ends with rank 0");
  }
  engine.join();
  if (copier != nullptr) parts->host_copier->close();
  copier.reset();
  progress.request_stop();
  parts->exchange->wake();
  progress.join();
  log_info("rank stopped", {{"why", end.ok() ? "rank 0 said so" : end.ToString()}});
  return exit_code(end);
}

}  // namespace

namespace {

// "any-0", or "any-0.1" for rank 1 of it. What is wrong with manifest or rank is said by the start itself.
std::string process_name(const WorkerOptions& options) {
  const std::string worker = cat(options.pool, "-", std::max(options.index, 0));
  const auto manifest = read_manifest(options.manifest);
  if (!manifest.ok()) return worker;
  for (const PoolManifest& pool : manifest->pools) {
    if (pool.name != options.pool) continue;
    const auto own = find_own_place(pool, options);
    if (own.ok()) return rank_name(cat(pool.name, "-", own->index), own->rank.rank);
  }
  return worker;
}

}  // namespace

int run_worker(const WorkerOptions& options) {
  block_end_signals();
  const Home home = Home::from_environment();
  const std::string name = process_name(options);
  log_open({.role = options.pool, .worker = name, .file = log_file(options.log_dir, name)});
  WorkerProcess process;
  if (const absl::Status s = process.make(options); !s.ok()) {
    std::fprintf(stderr, "%s\n", std::string(s.message()).c_str());
    if (!options.log_dir.empty()) log_error("worker could not start", {{"why", s.ToString()}});
    return is_rank_lost(s) ? kExitRankLost : kExitFailed;
  }
  absl::Status written = home.make_directories();
  if (written.ok()) written = write_file(home.file(memory_plan_file(name)), process.parts->memory_text());
  if (!written.ok()) log_warn("memory plan not written", {{"why", written.ToString()}});
  report(options.report_fd, "loaded\n");
  return process.parts->follower == nullptr ? process.run(options.report_fd) : process.follow();
}

}  // namespace baton::cli
