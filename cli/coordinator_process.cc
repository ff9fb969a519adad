// The coordinator process: makes its parts, starts its threads, ends them.
//
//   thread    loop                                 owns
//   http      coordinator/gateway/http_server      sockets, JSON, SSE, the text of streams
//             coordinator/request/control_loop     requests, router, membership, ledger: turns on the same
//             loop
//   admin     coordinator/gateway/http_server      /metrics and /admin/v1 on gateway.admin, when there is one
//   text      coordinator/gateway/text_pool        chat templates and tokenising (as many threads as a
//                                                  quarter of the cores, two at least)
//   (gRPC's own threads decode and post to the control loop)
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cinttypes>
#include <csignal>
#include <cstdio>
#include <map>
#include <optional>
#include <thread>

#include "base/agent.h"
#include "base/cat.h"
#include "base/check.h"
#include "base/log.h"
#include "base/timers.h"
#include "cli/admin_api.h"
#include "cli/cluster/home.h"
#include "cli/cluster/host_address.h"
#include "cli/cluster/manifest.h"
#include "cli/cluster/process.h"
#include "cli/cluster/version.h"
#include "cli/commands.h"
#include "cli/control_security.h"
#include "cli/gateway_security.h"
#include "cli/observers.h"
#include "coordinator/gateway/access.h"
#include "coordinator/gateway/http_server.h"
#include "coordinator/gateway/openai_api.h"
#include "coordinator/request/control_loop.h"
#include "text/grammar_cache.h"
#include "text/model_text.h"
#include "transport/rpc/control_client.h"
#include "transport/rpc/handshake_log.h"
#include "transport/rpc/membership_server.h"

namespace baton::cli {
namespace {

using namespace coordinator;

constexpr size_t kTextQueue = 1024;  // requests that wait to be tokenised; more get 429

// The request flow's way to the workers: one gRPC stream each.
class GrpcStreams final : public WorkerStreams {
 public:
  void set_client(transport::ControlClient& client) { client_ = &client; }
  void connect(const WorkerRef& worker, const std::string& address) override {
    if (const absl::Status s = client_->connect(worker, address); !s.ok())
      log_error("worker cannot be connected", {{"worker", worker.name}, {"why", s.ToString()}});
  }
  void disconnect(const WorkerRef& worker) override { client_->disconnect(worker); }
  void send(const WorkerRef& worker, CoordinatorMessage message) override { client_->send(worker, message); }
  Instant tick(Instant now) override { return client_->tick(now); }

 private:
  transport::ControlClient* client_ = nullptr;
};

// The key of the prefix hashes lives as long as the cluster: a coordinator that is started anew finds what
// its workers have cached. Readable by its owner only.
absl::StatusOr<HashKey> cluster_hash_key(const Home& home, const std::function<uint64_t()>& random) {
  const std::string path = home.file(kHashKeyFile);
  if (const auto text = read_file(path); text.ok()) {
    HashKey key;
    if (std::sscanf(text->c_str(), "%" SCNx64 " %" SCNx64, &key.k0, &key.k1) == 2) return key;
  }
  RETURN_IF_ERROR(home.make_directories());
  const HashKey key{random(), random()};
  char text[40];
  std::snprintf(text, sizeof text, "%016" PRIx64 " %016" PRIx64 "\n", key.k0, key.k1);
  RETURN_IF_ERROR(write_file(path, text, 0600));
  return key;
}

// With it this user's own commands (ps, chat, bench) open a gateway that wants keys; as long as the cluster
// lives, too.
absl::StatusOr<std::string> cluster_local_key(const Home& home, const std::function<uint64_t()>& random) {
  const std::string path = home.file(kLocalKeyFile);
  if (auto text = read_file(path); text.ok() && !text->empty()) return text;
  RETURN_IF_ERROR(home.make_directories());
  const std::string key = ApiKeys::make(random);
  RETURN_IF_ERROR(write_file(path, key, 0600));
  return key;
}

struct CoordinatorProcess {
  SteadyClock clock;
  ClusterManifest manifest;
  Metrics metrics{MetricProcess::kCoordinator};
  WorkerGauges worker_gauges{metrics};
  text::ModelText model;
  uint64_t identity = 0;  // random: names this life of the coordinator
  GrpcStreams streams;
  std::unique_ptr<FlowMetrics> flow_metrics;
  std::unique_ptr<ControlCore> core;
  std::unique_ptr<ControlLoop> loop;
  std::unique_ptr<transport::ControlClient> client;
  std::unique_ptr<transport::MembershipServer> membership;
  std::unique_ptr<TextPool> text_pool;
  std::unique_ptr<text::GrammarCache> grammars;
  std::unique_ptr<OpenAiApi> api;
  std::unique_ptr<Access> access, admin_access;  // each on its server's thread
  std::unique_ptr<HttpServer> http;
  std::unique_ptr<HttpServer> admin;  // null: the manifest has no gateway.admin
  std::unique_ptr<transport::CertificateWatch> certificates, gateway_certificate;
  std::atomic<HttpServer*> turner = nullptr;  // `http`, once it is there: it turns the control loop

  absl::Status make(const CoordinatorOptions& options);
  int run(int report_fd);

 private:
  absl::Status make_control();
  absl::Status make_rpc(const std::string& listen);
  absl::StatusOr<std::unique_ptr<Access>> make_access() const;
  absl::Status make_gateway(const std::string& http_address);
  absl::Status make_admin();
  bool on_membership_call(transport::MembershipCall call);
  bool on_stream_event(transport::ControlClientEvent event);
  void note_unreachable(const transport::WorkerStreamClosed& attempt);
  std::map<std::string, std::string> unreachable_;  // worker: why; used inside stream events, one at a time
  std::string metrics_text();
  std::string http_address() const { return join_host_port(http_host, http->port()); }
  // Where workers on this machine join.
  std::string membership_address() const {
    return join_host_port(is_wildcard_host(membership_host) ? "127.0.0.1" : membership_host,
                          membership->port());
  }
  std::string http_host;
  std::string membership_host;
  HashKey hash_key;
};

absl::Status CoordinatorProcess::make(const CoordinatorOptions& options) {
  ASSIGN_OR_RETURN(manifest, read_manifest(options.manifest));
  ASSIGN_OR_RETURN(model, text::load_model_text(manifest.model_source));
  RETURN_IF_ERROR(make_control());
  RETURN_IF_ERROR(make_rpc(options.membership.empty() ? manifest.control.listen : options.membership));
  RETURN_IF_ERROR(make_gateway(options.http));
  return manifest.gateway.admin.empty() ? absl::OkStatus() : make_admin();
}

absl::Status CoordinatorProcess::make_control() {
  const auto random = random_source();
  identity = random();
  ASSIGN_OR_RETURN(hash_key, cluster_hash_key(Home::from_environment(), random));
  ControlOptions options;
  options.router.itl_objective_seconds = to_seconds(manifest.itl_objective);
  options.router.min_prompt_tokens = manifest.min_prompt_tokens;
  options.router.decode_prefill_tokens = manifest.decode_prefill_tokens;
  options.flow.hash_key = hash_key;
  options.flow.first_transfer = identity & 0xffffffffff000000u;
  options.flow.max_queued = manifest.gateway.queue_requests;
  options.flow.admission_queue = manifest.gateway.queue_wait;
  options.flow.request_total = manifest.gateway.request_time;
  options.flow.on_prefill_failure =
      manifest.on_prefill_failure == "error" ? PrefillFailure::kError : PrefillFailure::kLocal;
  for (const PoolManifest& pool : manifest.pools) options.pools.push_back(pool.name);
  flow_metrics = std::make_unique<FlowMetrics>(metrics);
  core =
      std::make_unique<ControlCore>(options, streams, flow_metrics.get(),
                                    [this](const MembershipDecision& d) { flow_metrics->on_membership(d); });
  ControlLoopOptions loop_options;
  loop_options.first_request = (identity & 0xffffff0000000000u) + 1;
  loop_options.wake = [this] {
    if (HttpServer* server = turner) server->wake();
  };
  loop = std::make_unique<ControlLoop>(loop_options, *core, streams, clock);
  return absl::OkStatus();
}

absl::Status CoordinatorProcess::make_rpc(const std::string& listen) {
  const auto at = split_host_port(listen);
  if (!at) return absl::InvalidArgumentError(cat("--membership ", listen, ": want address:port"));
  membership_host = at->host;
  RETURN_IF_ERROR(check_own_files(manifest.control, ControlSide::kCoordinator));
  certificates = watch_certificates(manifest.control, ControlSide::kCoordinator);
  transport::ControlClientOptions options;
  options.security = security_of(manifest.control, ControlSide::kCoordinator);
  options.coordinator_id = cat("coordinator-", identity);
  options.term = 1;
  options.hash_key = hash_key;
  client = std::make_unique<transport::ControlClient>(
      options, [this](transport::ControlClientEvent e) { return on_stream_event(std::move(e)); });
  streams.set_client(*client);
  transport::MembershipServerOptions server;
  server.listen = listen;
  server.security = options.security;
  ASSIGN_OR_RETURN(membership,
                   transport::MembershipServer::start(server, [this](transport::MembershipCall call) {
                     return on_membership_call(std::move(call));
                   }));
  return absl::OkStatus();
}

bool CoordinatorProcess::on_stream_event(transport::ControlClientEvent event) {
  if (auto* opened = std::get_if<transport::WorkerStreamOpened>(&event)) {
    unreachable_.erase(opened->hello.worker.ref.name);
    return loop->post(StreamOpened{std::move(opened->hello.worker)});
  }
  if (auto* said = std::get_if<transport::WorkerSaid>(&event))
    return loop->post(WorkerMessageArrived{said->worker, std::move(said->message)});
  const auto& closed = std::get<transport::WorkerStreamClosed>(event);
  if (!closed.was_open) note_unreachable(closed);
  return loop->post(StreamClosed{closed.worker, closed.was_open, closed.why.ToString()});
}

// A worker that joined but cannot be connected to: a firewall, a wrong --advertise, a certificate. Said once
// for each reason.
void CoordinatorProcess::note_unreachable(const transport::WorkerStreamClosed& attempt) {
  const std::string why = attempt.why.ToString();
  if (std::exchange(unreachable_[attempt.worker.name], why) == why) return;
  log_warn("worker cannot be reached: its control connection does not open",
           {{"worker", attempt.worker.name}, {"why", why}, {"look_at", transport::explain_handshake(why)}});
}

bool CoordinatorProcess::on_membership_call(transport::MembershipCall call) {
  if (auto* join = std::get_if<transport::JoinCall>(&call)) {
    return loop->post(
        JoinWorker{join->worker, [this, reply = join->reply](absl::StatusOr<uint64_t> lease) {
                     if (!lease.ok()) return reply(lease.status());
                     reply(transport::JoinAccepted{.lease = *lease,
                                                   .ttl = timers::kLeaseTtl,
                                                   .coordinator_id = cat("coordinator-", identity),
                                                   .term = 1,
                                                   .hash_key = hash_key});
                   }});
  }
  if (auto* renew = std::get_if<transport::RenewCall>(&call))
    return loop->post(RenewLease{renew->worker, renew->lease, renew->reply});
  auto& leave = std::get<transport::LeaveCall>(call);
  return loop->post(LeaveCluster{leave.worker, leave.lease, leave.reply});
}

absl::StatusOr<std::unique_ptr<Access>> CoordinatorProcess::make_access() const {
  AccessOptions options{
      .keys_file = manifest.gateway.api_keys.path,
      .requests_per_tenant = manifest.gateway.requests_per_tenant,
      .tokens_per_minute = manifest.gateway.tokens_per_minute,
      .is_local = [this](const std::string& client) { return from_this_machine(client, http_host); }};
  if (!options.keys_file.empty()) {
    ASSIGN_OR_RETURN(options.local_key, cluster_local_key(Home::from_environment(), random_source()));
  }
  return Access::create(std::move(options));
}

absl::Status CoordinatorProcess::make_gateway(const std::string& http_address) {
  const GatewayManifest& g = manifest.gateway;
  text_pool = std::make_unique<TextPool>(kTextQueue);
  OpenAiOptions options{.model_names = manifest.model_names, .version = kVersion};
  if (options.model_names.empty()) options.model_names = {model.default_name};
  grammars = std::make_unique<text::GrammarCache>([this] {
    const text::Tokenizer& tokenizer = *model.tokenizer;
    return text::GrammarVocabulary::create(tokenizer, tokenizer.vocab_size(), model.end_token_ids);
  });
  OpenAiDeps deps{.text = &model,
                  .grammars = grammars.get(),
                  .port = loop.get(),
                  .pool = text_pool.get(),
                  .clock = &clock,
                  .status = [this] { return loop->status(); },
                  .random = random_source(),
                  .unix_time = unix_time_source(),
                  .metrics_text = [this] { return metrics_text(); },
                  .observer = gateway_observer(metrics)};
  // Of what was cached nothing was computed.
  deps.observer.on_request_done = [this, also = deps.observer.on_request_done](const CallRecord& r) {
    const int32_t computed = r.usage.prompt_tokens - r.usage.cached_tokens + r.usage.completion_tokens;
    access->spent(r.tenant, computed, clock.now());
    also(r);
  };
  api = std::make_unique<OpenAiApi>(std::move(options), std::move(deps));
  RouteTable routes;
  RETURN_IF_ERROR(api->add_routes(routes));
  RETURN_IF_ERROR(add_admin_routes(routes, [this] { return loop->status(); }));
  HttpServerOptions server{.address = g.host, .port = g.port};
  if (!http_address.empty()) {
    const auto at = split_host_port(http_address);
    if (!at) return absl::InvalidArgumentError(cat("--http ", http_address, ": want address:port"));
    server.address = at->host;
    server.port = static_cast<uint16_t>(at->port);
  }
  http_host = server.address;
  server.max_connections = g.connections;
  server.max_connections_per_ip = g.connections_per_address;
  server.limits.body_bytes = g.body_bytes;
  server.allowed_origins = g.allowed_origins;
  RETURN_IF_ERROR(check_gateway_files(g, unix_time_source()(), nullptr));
  ASSIGN_OR_RETURN(server.tls, gateway_tls(g));
  gateway_certificate = watch_gateway(g);
  HttpServerDeps server_deps{.clock = &clock, .random = random_source(), .unix_time = unix_time_source()};
  server_deps.on_refused = [this](int status) {
    metrics.add(Metric::kRejectedHttp, 1, {std::to_string(status)});
  };
  // Where anybody may ask for tokens, who else asks and how the cluster is doing is not theirs to see.
  ASSIGN_OR_RETURN(access, make_access());
  server_deps.admit = [this](RouteRole role, HttpRequest& request) {
    return access->admit(role, request, clock.now());
  };
  server_deps.turn = [this](Instant now) { return loop->turn(now); };
  ASSIGN_OR_RETURN(http, HttpServer::listen(server, std::move(routes), std::move(server_deps)));
  turner = http.get();
  api->set_io([this](std::function<void()> work) { http->post(std::move(work)); });
  return absl::OkStatus();
}

// On loopback for everybody there; elsewhere under the gateway's TLS and keys, when it has them.
absl::Status CoordinatorProcess::make_admin() {
  const auto at = split_host_port(manifest.gateway.admin);
  if (!at)
    return absl::InvalidArgumentError(cat("gateway.admin ", manifest.gateway.admin, ": want address:port"));
  RouteTable routes;
  RETURN_IF_ERROR(routes.add({"GET", "/metrics", RouteRole::kOperator, [this](std::shared_ptr<Exchange> e) {
                                e->answer({.content_type = "text/plain; version=0.0.4; charset=utf-8",
                                           .body = metrics_text()});
                              }}));
  RETURN_IF_ERROR(routes.add({"GET", "/live", RouteRole::kPublic, [](std::shared_ptr<Exchange> e) {
                                e->answer({.content_type = "text/plain", .body = "live\n"});
                              }}));
  RETURN_IF_ERROR(add_admin_routes(routes, [this] { return loop->status(); }));
  HttpServerOptions server{.address = at->host, .port = static_cast<uint16_t>(at->port)};
  HttpServerDeps deps{.clock = &clock, .random = random_source(), .unix_time = unix_time_source()};
  if (!is_loopback_host(at->host)) {
    ASSIGN_OR_RETURN(server.tls, gateway_tls(manifest.gateway));
    if (!manifest.gateway.api_keys.path.empty()) {
      ASSIGN_OR_RETURN(admin_access, make_access());
      deps.admit = [this](RouteRole role, HttpRequest& request) {
        return admin_access->admit(role, request, clock.now());
      };
    }
  }
  ASSIGN_OR_RETURN(admin, HttpServer::listen(server, std::move(routes), std::move(deps)));
  return absl::OkStatus();
}

// On the thread of `http`, and on that of `admin`.
std::string CoordinatorProcess::metrics_text() {
  const auto status = loop->status();
  const FlowCounters counters = loop->counters();
  metrics.set(Metric::kBuildInfo, 1, {kVersion});
  metrics.set(Metric::kRequestsInFlight, status->requests_in_flight);
  metrics.set(Metric::kLedgerEntries, status->ledger_entries);
  metrics.set(Metric::kQueueDepth, status->requests_queued, {"admission"});
  metrics.set(Metric::kQueueDepth, static_cast<double>(text_pool->waiting()), {"text"});
  metrics.raise(Metric::kFencedMessages, counters.fenced_messages);
  metrics.raise(Metric::kRetries, counters.retries);
  metrics.raise(Metric::kMoves, counters.moves);
  metrics.raise(Metric::kReplayMismatches, counters.replay_mismatches);
  metrics.raise(Metric::kWorkersLost, counters.workers_lost);
  worker_gauges.show(*status);
  set_certificate_metrics(metrics, certificates.get());
  set_certificate_metrics(metrics, gateway_certificate.get());
  return metrics.render();
}

int CoordinatorProcess::run(int report_fd) {
  std::vector<std::unique_ptr<AgentThread>> text_threads;
  // Two at least: one of them does not take long texts.
  for (unsigned i = 0; i < std::max(2u, std::thread::hardware_concurrency() / 4); ++i)
    text_threads.push_back(
        std::make_unique<AgentThread>("text", [this](std::stop_token stop) { text_pool->run(stop); }));
  AgentThread http_thread("http", [this](std::stop_token) { http->run(); });
  std::optional<AgentThread> admin_thread;
  if (admin) admin_thread.emplace("admin", [this](std::stop_token) { admin->run(); });
  log_info("coordinator serves",
           {{"http", http_address()},
            {"https", manifest.gateway.tls.has_value()},
            {"api_keys", !manifest.gateway.api_keys.path.empty()},
            {"admin", admin ? cat("port ", admin->port()) : "with http, to this machine"},
            {"membership", join_host_port(membership_host, membership->port())},
            {"tls", manifest.control.tls.has_value()},
            {"model", manifest.model_source}});
  if (report_fd >= 0) {
    const std::string line =
        cat("{\"http\":\"", http_address(), "\",\"membership\":\"", membership_address(), "\"}\n");
    (void)!::write(report_fd, line.data(), line.size());
    ::close(report_fd);
  }
  while (wait_for_signal(std::chrono::seconds(60)) == 0) {
    look_at_certificates(certificates.get());
    look_at_certificates(gateway_certificate.get());
  }
  api->begin_drain();
  http->begin_drain();
  const Instant limit = clock.now() + timers::kDrainCap;
  while (http->open_exchanges() > 0 && clock.now() < limit)
    if (wait_for_signal(std::chrono::milliseconds(20)) != 0) break;  // a second signal: at once
  http->stop();
  if (admin) admin->stop();
  http_thread.join();
  admin_thread.reset();
  text_pool->close();
  text_threads.clear();
  loop->finish();
  membership.reset();
  client.reset();
  log_info("coordinator stopped");
  return kExitOk;
}

}  // namespace

int run_coordinator(const CoordinatorOptions& options) {
  block_end_signals();
  log_open(
      {.role = "coordinator", .worker = "coordinator", .file = log_file(options.log_dir, "coordinator")});
  CoordinatorProcess process;
  if (const absl::Status s = process.make(options); !s.ok()) {
    std::fprintf(stderr, "%s\n", std::string(s.message()).c_str());
    if (!options.log_dir.empty()) log_error("coordinator could not start", {{"why", s.ToString()}});
    return kExitFailed;
  }
  return process.run(options.report_fd);
}

}  // namespace baton::cli
