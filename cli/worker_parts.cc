#include "cli/worker_parts.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "base/cat.h"
#include "base/check.h"
#include "base/units.h"
#include "cli/cores.h"
#include "cli/kv_type.h"
#include "cli/version.h"
#include "transport/data/host_id.h"
#include "transport/data/process_data_plane.h"
#include "worker/kv_transfer/kv_layout.h"

namespace baton::cli {
namespace {

// What may wait for the engine: a burst of submits and the events of every open transfer.
constexpr size_t kMailboxCapacity = 65536;
// What a step may take of the time between two tokens that was promised: predictions are wrong by a tenth
// now and then, and the way to the client takes its part.
constexpr double kStepShareOfItl = 0.85;

Incarnation new_incarnation() {
  using namespace std::chrono;
  return Incarnation(duration_cast<milliseconds>(system_clock::now().time_since_epoch()).count());
}

}  // namespace

absl::StatusOr<std::unique_ptr<WorkerParts>> WorkerParts::make(const WorkerOptions& options,
                                                               worker::PeerReportSink on_peer) {
  auto parts = std::make_unique<WorkerParts>();
  const Instant begun = parts->clock.now();
  RETURN_IF_ERROR(parts->read(options));
  RETURN_IF_ERROR(parts->load(options, std::move(on_peer)));
  parts->load_time = parts->clock.now() - begun;
  RETURN_IF_ERROR(parts->make_engine());
  return parts;
}

absl::Status WorkerParts::read(const WorkerOptions& options) {
  ASSIGN_OR_RETURN(manifest, read_manifest(options.manifest));
  const auto found = std::ranges::find(manifest.pools, options.pool, &PoolManifest::name);
  if (found == manifest.pools.end())
    return absl::NotFoundError(cat(options.manifest, ": there is no pool ", options.pool));
  pool = *found;
  description.ref = {cat(pool.name, "-", options.index), new_incarnation()};
  description.role = pool.role;
  description.pool = pool.name;
  description.host_id = transport::host_id();
  description.pid = ::getpid();
  description.version = kVersion;
  ASSIGN_OR_RETURN(file, worker::ModelFile::open(manifest.model_source));
  return absl::OkStatus();
}

int32_t WorkerParts::context_tokens() const {
  const int64_t trained = file->spec().context_tokens;
  return static_cast<int32_t>(
      manifest.context_tokens > 0 ? std::min<int64_t>(manifest.context_tokens, trained) : trained);
}

kernels::KvGeometry WorkerParts::geometry() const {
  kernels::KvGeometry g =
      worker::kv_geometry(file->spec(), pool.block_tokens, *parse_kv_type(pool.kv_dtype), 0);
  g.blocks = static_cast<int64_t>(pool.kv_memory_bytes / (g.piece_bytes() * g.layers));
  return g;
}

MemoryPlan WorkerParts::plan_memory(const kernels::KvGeometry& g) const {
  const int32_t logit_rows = std::min(pool.max_sequences, pool.max_batch_tokens);
  const worker::ModelMemory sizes =
      worker::model_memory(file->spec(), file->weights(), *backend, pool.max_batch_tokens, logit_rows);
  return {.weights = sizes.weights,
          .kv_blocks = static_cast<uint64_t>(g.blocks),
          .kv_block_bytes = g.piece_bytes() * g.layers,
          .activations = sizes.activations,
          .mapped_file = file->mapped_bytes()};
}

absl::Status WorkerParts::load(const WorkerOptions& options, worker::PeerReportSink on_peer) {
  const kernels::KvGeometry g = geometry();
  if (g.blocks < 2)
    return absl::InvalidArgumentError(
        cat("pool ", pool.name, ": kv.memory ", format_bytes(pool.kv_memory_bytes), " holds ", g.blocks,
            " blocks of ", format_bytes(g.piece_bytes() * g.layers), "; want 2 at least"));
  ASSIGN_OR_RETURN(backend, kernels::make_backend({.device = pool.device,
                                                   .threads = options.threads,
                                                   .cpus = options.cpus,
                                                   .numerics = parse_numerics(pool.numerics)}));
  memory = plan_memory(g);
  memory_limit = read_memory_limit();
  RETURN_IF_ERROR(memory.check(memory_limit, pool.name));
  transport::DataPlaneOptions data;
  ASSIGN_OR_RETURN(data.lanes, transport::parse_lanes(manifest.transport));
  data.pool_bytes = g.pool_bytes();
  data.prefault_pool = false;
  data.checksum = manifest.checksum;
  data.identity = {.self = description.ref,
                   .host_id = description.host_id,
                   .kv_layout_hash = worker::kv_layout_hash(g, backend->kv_layout_name()),
                   .model_hash = file->hash(),
                   .numerics_id = backend->numerics_id(g.type)};
  ASSIGN_OR_RETURN(plane, transport::make_process_data_plane(data));
  const worker::LlamaModelOptions model_options{
      .max_rows = pool.max_batch_tokens,
      .max_positions = context_tokens(),
      .on_packed = [this](const kernels::WeightView& matrix) { file->release(matrix); }};
  ASSIGN_OR_RETURN(model, worker::LlamaModel::create(file->spec(), file->weights(), *backend, model_options));
  RETURN_IF_ERROR(backend->attach_kv(plane->pool(), g));
  runner = std::make_unique<worker::ModelRunner>(*model, clock);
  mailbox = std::make_unique<worker::EngineMailbox>(kMailboxCapacity);
  ASSIGN_OR_RETURN(exchange, worker::KvExchangeAgent::create(
                                 *plane, {.geometry = g,
                                          .events =
                                              [this](worker::KvEvent e) {
                                                BATON_CHECK(mailbox->post(std::move(e)) || mailbox->closed());
                                              },
                                          .peers = std::move(on_peer)}));
  description.data_address = plane->address();
  description.device = backend->description();
  description.device += on_cores(options.cpus);
  description.model_hash = data.identity.model_hash;
  description.kv_layout_hash = data.identity.kv_layout_hash;
  description.numerics_id = data.identity.numerics_id;
  description.block_tokens = g.block_tokens;
  description.context_tokens = context_tokens();
  description.blocks_total = g.blocks;
  return absl::OkStatus();
}

absl::Status WorkerParts::make_engine() {
  worker::EngineOptions options;
  options.blocks = description.blocks_total;
  options.block_tokens = description.block_tokens;
  options.scheduler.vocab_size = static_cast<int32_t>(file->spec().vocab_size);
  options.scheduler.context_tokens = description.context_tokens;
  options.scheduler.token_budget = pool.max_batch_tokens;
  options.scheduler.max_running = std::min(pool.max_sequences, pool.max_batch_tokens);
  options.scheduler.itl_objective =
      std::chrono::duration_cast<Duration>(manifest.itl_objective * kStepShareOfItl);
  engine = std::make_unique<worker::Engine>(options, *exchange);
  return absl::OkStatus();
}

}  // namespace baton::cli
