// The engine of the gateway benchmark: a worker with the real scheduler, block pool and control protocol that
// computes nothing. Its tokens are ordinary ids in a fixed order. Only `bench serve --scenario G` starts it.
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <thread>

#include "base/agent.h"
#include "base/cat.h"
#include "base/log.h"
#include "cli/bench/bench_commands.h"
#include "cli/cluster/home.h"
#include "cli/cluster/manifest.h"
#include "cli/cluster/process.h"
#include "cli/cluster/version.h"
#include "transport/data/host_id.h"
#include "worker/control/worker_control.h"
#include "worker/kv_cache/no_exchange.h"
#include "worker/model/model_file.h"

namespace baton::cli {
namespace {

constexpr size_t kMailboxCapacity = 65536;

// Steps that take `pause` and compute nothing.
class MockExecutor final : public worker::StepExecutor {
 public:
  MockExecutor(Duration pause, int64_t vocab) : pause_(pause), vocab_(vocab) {}

  absl::Status start(const worker::StepPlan& plan, const worker::LayerListener&,
                     worker::StepResult& result) override {
    if (pause_ > Duration::zero()) std::this_thread::sleep_for(pause_);
    for (size_t i = 0; i < plan.rows.size(); ++i) {
      const worker::PlannedRows& rows = plan.rows[i];
      if (!rows.sample) continue;
      worker::SampledRow& out = result.sampled.emplace_back();
      out.planned = i;
      out.token =
          TokenOutput{.token = token_at(rows.first_position + rows.row_count), .logprob = 0, .top = {}};
    }
    return absl::OkStatus();
  }

 private:
  // Ids 300 to 499 are short pieces of text in the vocabularies of the Llama family.
  TokenId token_at(int32_t position) const {
    return static_cast<TokenId>((300 + (int64_t{position} * 37) % 200) % vocab_);
  }
  const Duration pause_;
  const int64_t vocab_;
};

struct MockWorker {
  SteadyClock clock;
  worker::NoExchange exchange;
  std::unique_ptr<worker::EngineMailbox> mailbox;
  std::unique_ptr<worker::Engine> engine;
  std::unique_ptr<MockExecutor> executor;
  std::unique_ptr<worker::WorkerControl> control;
  std::unique_ptr<worker::EngineLoop> loop;

  absl::Status make(const MockWorkerOptions& options);
  int run();
};

WorkerDescription description_of(const PoolManifest& pool, const worker::ModelFile& file) {
  WorkerDescription d;
  const auto since_epoch = std::chrono::system_clock::now().time_since_epoch();
  d.ref = {cat(pool.name, "-0"),
           Incarnation(std::chrono::duration_cast<std::chrono::milliseconds>(since_epoch).count())};
  d.pool = pool.name;
  d.host_id = transport::host_id();
  d.pid = ::getpid();
  d.version = kVersion;
  d.device = "mock: computes nothing";
  d.model_hash = file.hash();
  d.kv_layout_hash = d.numerics_id = "mock";  // pairs with nobody
  d.block_tokens = pool.block_tokens;
  d.context_tokens = static_cast<int32_t>(file.spec().context_tokens);
  d.blocks_total = 1 << 16;
  return d;
}

absl::Status MockWorker::make(const MockWorkerOptions& options) {
  ASSIGN_OR_RETURN(const ClusterManifest manifest, read_manifest(options.manifest));
  if (manifest.name != kMockCluster)
    return absl::PermissionDeniedError(cat(options.manifest, " is no cluster of the gateway benchmark"));
  ASSIGN_OR_RETURN(const auto file, worker::ModelFile::open(manifest.model_source));
  const WorkerDescription description = description_of(manifest.pools.front(), *file);
  worker::EngineOptions engine_options;
  engine_options.blocks = description.blocks_total;
  engine_options.block_tokens = description.block_tokens;
  engine_options.scheduler.vocab_size = static_cast<int32_t>(file->spec().vocab_size);
  engine_options.scheduler.context_tokens = description.context_tokens;
  // The first steps are as fast as all others: no caution.
  engine_options.scheduler.step_time.seconds_per_prefill_token = 1e-7;
  engine_options.scheduler.step_time.seconds_per_decode_row = 1e-7;
  engine = std::make_unique<worker::Engine>(engine_options, exchange);
  executor = std::make_unique<MockExecutor>(options.step, file->spec().vocab_size);
  mailbox = std::make_unique<worker::EngineMailbox>(kMailboxCapacity);
  worker::EngineLoop::Parts parts{*engine, *executor, *mailbox, clock};
  loop = std::make_unique<worker::EngineLoop>(parts,
                                              [this](std::vector<WorkerMessage>& m) { control->publish(m); });
  worker::WorkerControlParts control_parts{
      .engine = *mailbox,
      .engine_status = [this] { return loop->status(); },
      .connect_peer = [](const WorkerDescription&) { return false; },
      .fence_peer = [](const WorkerRef&) { return true; },
      .on_fenced = [](const absl::Status&) { ::kill(::getpid(), SIGTERM); },
      .clock = clock};
  ASSIGN_OR_RETURN(
      control, worker::WorkerControl::start({.worker = description, .join = options.join}, control_parts));
  return absl::OkStatus();
}

int MockWorker::run() {
  AgentThread engine_thread("engine", [this](std::stop_token stop) { (void)loop->run(stop); });
  AgentThread control_thread("control", [this](std::stop_token stop) { control->run(stop); });
  while (wait_for_signal(std::chrono::seconds(60)) == 0) {
  }
  control_thread.request_stop();
  engine_thread.request_stop();
  mailbox->close();
  return kExitOk;
}

}  // namespace

int run_mock_worker(const MockWorkerOptions& options) {
  block_end_signals();
  log_open({.role = "mock", .worker = "mock-0", .file = Home::from_environment().file("logs/mock-0.log")});
  MockWorker worker;
  if (const absl::Status s = worker.make(options); !s.ok()) {
    std::fprintf(stderr, "%s\n", std::string(s.message()).c_str());
    return kExitFailed;
  }
  return worker.run();
}

}  // namespace baton::cli
