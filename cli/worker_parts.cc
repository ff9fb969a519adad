#include "cli/worker_parts.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <limits>

#include "base/agent.h"
#include "base/cat.h"
#include "base/check.h"
#include "base/log.h"
#include "base/units.h"
#include "cli/cluster/cores.h"
#include "cli/cluster/host_places.h"
#include "cli/cluster/incarnation.h"
#include "cli/cluster/kv_type.h"
#include "cli/cluster/version.h"
#include "cli/control_security.h"
#include "cli/pause_point.h"
#include "kernels/cuda/algorithm_table.h"
#include "kernels/cuda/device_name.h"
#include "kernels/device.h"
#include "kernels/self_check.h"
#include "text/model_text.h"
#include "transport/data/device_data_plane.h"
#include "transport/data/host_id.h"
#include "transport/data/process_data_plane.h"
#include "worker/kv_transfer/kv_layout.h"
#include "worker/model/output_shard.h"
#include "worker/model/stage_trial.h"

namespace baton::cli {
namespace {

// What may wait for the engine: a burst of submits and the events of every open transfer.
constexpr size_t kMailboxCapacity = 65536;
// What a step may take of the time between two tokens that was promised: predictions are wrong by a tenth
// now and then, and the way to the client takes its part.
constexpr double kStepShareOfItl = 0.85;
// Of KV memory that an idle engine takes before it is used; at most a quarter of the pool.
constexpr size_t kAheadBytes = size_t{128} << 20;
constexpr const char* kRankLostPayload = "baton/rank-lost";
// Ranks of other hosts may be scheduled minutes later, and load as long.
constexpr auto kRankPatience = std::chrono::seconds(300);

Incarnation new_incarnation(const std::string& worker) {
  using namespace std::chrono;
  const auto wall = duration_cast<milliseconds>(system_clock::now().time_since_epoch()).count();
  const NewLife life = new_life(Home::from_environment(), worker, static_cast<uint64_t>(wall));
  if (!life.remembered.ok())
    log_warn("the number of this life is not remembered: should the clock step back, the next one is refused",
             {{"why", std::string(life.remembered.message())}});
  return life.number;
}

double decoded_by(WorkerRole role) {
  return role == WorkerRole::kPrefill  ? worker::kDecodedByPrefill
         : role == WorkerRole::kDecode ? worker::kDecodedByDecode
                                       : worker::kDecodedByAny;
}

// What a rank hears that waits for the others. Its own errors are others than these two, on a CPU; ranks on
// GPUs do not measure stages, and then only wait.
absl::Status from_ranks(absl::Status status) {
  if (absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status))
    status.SetPayload(kRankLostPayload, absl::Cord());
  return status;
}

}  // namespace

bool is_rank_lost(const absl::Status& start) { return start.GetPayload(kRankLostPayload).has_value(); }

absl::StatusOr<OwnPlace> find_own_place(const PoolManifest& pool, const WorkerOptions& options) {
  ProcessPlace by_hosts{.index = std::max(options.index, 0), .rank = -1};
  if (pool.ranks() == 1 || !orchestrator_says(environment_variable)) {
    ASSIGN_OR_RETURN(by_hosts, own_place(pool, {options.index, options.rank}, own_host_names()));
  }
  OwnPlace out{.index = by_hosts.index};
  ASSIGN_OR_RETURN(out.rank, find_rank({.ranks = pool.ranks(),
                                        .flag_rank = options.rank,
                                        .flag_rendezvous = options.rendezvous,
                                        .manifest_rendezvous = pool.rendezvous,
                                        .port = pool.rendezvous_port,
                                        .hosts_rank = by_hosts.rank,
                                        .hosts_rendezvous = rendezvous_from_hosts(pool, by_hosts.index)},
                                       environment_variable));
  return out;
}

absl::StatusOr<std::unique_ptr<WorkerParts>> WorkerParts::make(const WorkerOptions& options,
                                                               ExchangeSinks sinks) {
  auto parts = std::make_unique<WorkerParts>();
  const Instant begun = parts->clock.now();
  RETURN_IF_ERROR(parts->read(options));
  RETURN_IF_ERROR(parts->find_place(options));
  RETURN_IF_ERROR(parts->find_addresses(options));
  RETURN_IF_ERROR(parts->load(options, std::move(sinks)));
  parts->load_time = parts->clock.now() - begun;
  return parts;
}

absl::Status WorkerParts::read(const WorkerOptions& options) {
  ASSIGN_OR_RETURN(manifest, read_manifest(options.manifest));
  const auto found = std::ranges::find(manifest.pools, options.pool, &PoolManifest::name);
  if (found == manifest.pools.end())
    return absl::NotFoundError(cat(options.manifest, ": there is no pool ", options.pool));
  pool = *found;
  if (!options.stage_layers.empty()) pool.stage_layers = options.stage_layers;
  description.role = pool.role;
  description.pool = pool.name;
  description.host_id = transport::host_id();
  description.pid = ::getpid();
  description.version = kVersion;
  const bool fp8_device = kernels::cuda::DeviceName::is_cuda(pool.device) && pool.numerics == "bf16dot";
  using Fp8 = worker::ModelFile::Fp8Matrices;
  ASSIGN_OR_RETURN(
      file, worker::ModelFile::open(manifest.model_source,
                                    fp8_device && pool.quantization != "none" ? Fp8::kKept : Fp8::kOpened));
  if (const std::string notice = manifest.context_notice(file->spec().context_tokens); !notice.empty())
    log_warn(notice);
  return absl::OkStatus();
}

int32_t WorkerParts::context_tokens() const {
  const int64_t trained = file->spec().context_tokens;
  return static_cast<int32_t>(
      manifest.context_tokens > 0 ? std::min<int64_t>(manifest.context_tokens, trained) : trained);
}

absl::Status WorkerParts::find_place(const WorkerOptions& options) {
  ASSIGN_OR_RETURN(const OwnPlace own, find_own_place(pool, options));
  index = own.index;
  place = own.rank;
  const std::string name = cat(pool.name, "-", index);
  description.ref = {name, place.rank == 0 ? new_incarnation(name) : Incarnation()};
  if (!stays_on_host(place.rendezvous) && !pool.insecure_ranks && !manifest.control.tls)
    return absl::FailedPreconditionError(
        cat("rank ", place.rank, " meets the others at ", place.rendezvous,
            ", which other machines can reach, and ranks talk without TLS: give control.tls ",
            "(docs/multi_host.md), or set parallel.insecureAllowPlaintextOffLoopback: true in pool ",
            pool.name, " if their network is private"));
  if (place.ranks > 1)
    log_info("rank of a group", {{"rank", place.rank},
                                 {"ranks", place.ranks},
                                 {"rendezvous", place.rendezvous},
                                 {"told_by", place.source}});
  return absl::OkStatus();
}

absl::Status WorkerParts::find_addresses(const WorkerOptions& options) {
  const ControlManifest& control = manifest.control;
  if (place.rank == 0) join = options.join.empty() ? control.join_address() : options.join;
  if (place.rank == 0 && join.empty())
    return absl::InvalidArgumentError(
        "where is the coordinator? Give --join HOST:PORT, or control.join in the manifest");
  if (place.rank == 0 || manifest.kv_tls() || manifest.rank_tls(pool))
    RETURN_IF_ERROR(check_own_files(control, ControlSide::kWorker));
  ASSIGN_OR_RETURN(addresses,
                   choose_addresses({.listen = options.listen,
                                     .data = options.data,
                                     .advertise = options.advertise,
                                     .metrics = options.metrics,
                                     .network = pool.network,
                                     .join = join,
                                     .rendezvous = place.rendezvous,
                                     .number = index * pool.ranks() + place.rank,
                                     .control_protected = control.tls || control.insecure_plaintext,
                                     // Ranks that may talk plainly may say by the data plane what they do.
                                     .data_protected = manifest.kv_tls() || manifest.insecure_transfer ||
                                                       (place.rank > 0 && pool.insecure_ranks)},
                                    local_network()));
  return absl::OkStatus();
}

absl::StatusOr<WorkerParts::BlockBytes> WorkerParts::weigh_block() const {
  BlockBytes out;
  for (int rank = 0; rank < shape().ranks(); ++rank) {
    ASSIGN_OR_RETURN(const worker::ModelShard shard, shard_of_rank(rank));
    const size_t bytes = worker::HostCopier::slot_bytes(
        worker::kv_geometry(shard.spec, pool.block_tokens, *parse_kv_type(pool.kv_dtype), 0));
    out.largest = std::max(out.largest, bytes);
    out.all += bytes;
  }
  return out;
}

// Every rank of a group has the same number of blocks, in its pool and in host memory: as many as the rank
// whose part is largest has room for.
absl::StatusOr<kernels::KvGeometry> WorkerParts::geometry(const worker::ModelShard& own) const {
  const auto blocks = static_cast<int64_t>(pool.kv_memory_bytes / block_bytes.largest);
  if (blocks < 2)
    return absl::InvalidArgumentError(
        cat("pool ", pool.name, ": kv.memory ", format_bytes(pool.kv_memory_bytes), " holds ", blocks,
            " blocks of ", format_bytes(block_bytes.largest), "; want 2 at least"));
  return worker::kv_geometry(own.spec, pool.block_tokens, *parse_kv_type(pool.kv_dtype), blocks);
}

int64_t WorkerParts::host_blocks() const {
  return static_cast<int64_t>(pool.kv_host_memory_bytes / block_bytes.largest);
}

MemoryPlan WorkerParts::plan_memory(const worker::ModelShard& shard, const kernels::KvGeometry& g) const {
  const auto host_blocks = static_cast<uint64_t>(this->host_blocks());
  const uint64_t block_bytes = worker::HostCopier::slot_bytes(g);
  if (!backend->in_host_memory())
    return {.weights = file->own_bytes(),
            .host_blocks = host_blocks,
            .host_block_bytes = block_bytes,
            .mapped_file = file->mapped_bytes()};
  const int32_t logit_rows =
      std::min(pool.max_sequences + worker::SchedulerOptions{}.prompt_logit_rows, pool.max_batch_tokens);
  const worker::ModelMemory sizes = worker::model_memory(shard, *backend, pool.max_batch_tokens, logit_rows);
  return {.weights = sizes.weights + file->own_bytes(),
          .kv_blocks = static_cast<uint64_t>(g.blocks),
          .kv_block_bytes = block_bytes,
          .host_blocks = host_blocks,
          .host_block_bytes = block_bytes,
          .activations = sizes.activations,
          .mapped_file = file->mapped_bytes()};
}

// Logits of every row: echo with logprobs wants them.
absl::StatusOr<DeviceMemoryPlan> WorkerParts::plan_device_memory(const worker::ModelShard& shard,
                                                                 const kernels::KvGeometry& g) const {
  ASSIGN_OR_RETURN(const kernels::DeviceMemory now, on_gpu()->device().memory());
  const worker::ModelMemory sizes =
      worker::model_memory(shard, *backend, pool.max_batch_tokens, pool.max_batch_tokens);
  return DeviceMemoryPlan{.device = backend->description(),
                          .weights = sizes.weights,
                          .kv = g.pool_bytes(),
                          .activations = sizes.activations,
                          .rest = on_gpu()->own_bytes(),
                          .free = now.free};
}

std::string WorkerParts::memory_text() const {
  const std::string host = memory.text(memory_limit);
  return device_memory ? cat(device_memory->text(), "; host: ", host) : host;
}

worker::PlanLimits WorkerParts::plan_limits(const kernels::KvGeometry& g) const {
  return {.max_rows = pool.max_batch_tokens,
          .max_positions = context_tokens(),
          .block_tokens = g.block_tokens,
          .blocks = g.blocks,
          .vocab = file->spec().vocab_size};
}

// A device of its own kind is asked to compute something small first, by another backend on it.
absl::Status WorkerParts::check_device() const {
  if (backend->in_host_memory()) return absl::OkStatus();
  const kernels::Numerics numerics = parse_numerics(pool.numerics);
  ASSIGN_OR_RETURN(const auto probe, kernels::make_device_backend({.device = device(), .numerics = numerics},
                                                                  device_options()));
  return kernels::check_against_reference(*probe, {.head_dim = file->spec().head_dim,
                                                   .kv = kernels::KvType::kBF16,
                                                   .batches = numerics != kernels::Numerics::kFastest});
}

// An fp8 checkpoint is multiplied as it is where `quantization: auto` meets a device that can.
kernels::DeviceOptions WorkerParts::device_options() const {
  using kernels::Quantization;
  return {.quantization =
              pool.quantization == "fp8" || file->keeps_fp8() ? Quantization::kFp8 : Quantization::kNone,
          .algorithms = pool.algorithms};
}

// Before anything takes minutes.
absl::Status WorkerParts::check_algorithms() const {
  if (pool.algorithms.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const kernels::cuda::AlgorithmTable table, kernels::cuda::read_table(pool.algorithms));
  if (table.most_rows() >= pool.max_batch_tokens) return absl::OkStatus();
  return absl::FailedPreconditionError(cat(pool.algorithms, " has algorithms for up to ", table.most_rows(),
                                           " rows, and batch.tokens of pool ", pool.name, " is ",
                                           pool.max_batch_tokens, ": make it with baton tune --rows ",
                                           pool.max_batch_tokens, ", or lower batch.tokens"));
}

absl::Status WorkerParts::load(const WorkerOptions& options, ExchangeSinks sinks) {
  RETURN_IF_ERROR(check_algorithms());
  ASSIGN_OR_RETURN(backend, make_backend(options));
  RETURN_IF_ERROR(check_device());
  const bool measures = !stages_known();
  if (measures) {
    RETURN_IF_ERROR(shard_of_rank(place.rank).status());  // what cannot be is said before anybody is met
    RETURN_IF_ERROR(form_ranks());
    RETURN_IF_ERROR(measure_stages(options));
  } else if (pool.pipeline > 1) {
    log_info("stages named", {{"layers", worker::stages_text(pool.stage_layers)}});
  }
  ASSIGN_OR_RETURN(worker::ModelShard shard, shard_of_rank(place.rank));
  ASSIGN_OR_RETURN(block_bytes, weigh_block());
  ASSIGN_OR_RETURN(const kernels::KvGeometry g, geometry(shard));
  memory = plan_memory(shard, g);
  memory_limit = read_memory_limit();
  absl::Status room = memory.check(memory_limit, pool.name);
  if (room.ok() && on_gpu() != nullptr) {
    ASSIGN_OR_RETURN(device_memory, plan_device_memory(shard, g));
    room = device_memory->check(pool.name);
  }
  if (!room.ok() && measures)
    return {room.code(),
            cat(std::string(room.message()), " (stages were measured as ",
                worker::stages_text(pool.stage_layers), " layers: parallel.stageLayers names others)")};
  RETURN_IF_ERROR(room);
  if (place.ranks > 1 && group == nullptr) RETURN_IF_ERROR(form_ranks());
  describe(options, g);
  RETURN_IF_ERROR(load_model(std::move(shard), g));
  RETURN_IF_ERROR(make_host_copier(g));
  RETURN_IF_ERROR(make_exchange(g, std::move(sinks)));
  if (place.rank > 0) {
    follower = std::make_unique<worker::FollowerLoop>(
        worker::FollowerLoop::Parts{
            .model = *model, .links = group->links(), .clock = clock, .exchange = exchange.get()},
        plan_limits(g));
    return absl::OkStatus();
  }
  worker::ModelRunner::Group followers;
  if (group != nullptr) {
    plans = std::make_unique<worker::PlanSender>(group->links(), plan_limits(g), clock);
    followers.links = &group->links();
    followers.plans = plans.get();
  }
  masks = make_masks();
  runner = std::make_unique<worker::ModelRunner>(*model, clock, followers, masks.get());
  return make_engine();
}

// Of the model's text a worker needs the vocabulary, and that only for grammars.
std::unique_ptr<worker::GrammarMasks> WorkerParts::make_masks() const {
  return std::make_unique<worker::GrammarMasks>(
      [path = manifest.model_source, width = static_cast<int32_t>(model->spec().vocab_size)]()
          -> absl::StatusOr<std::unique_ptr<text::GrammarVocabulary>> {
        ASSIGN_OR_RETURN(const text::ModelText text, text::load_model_text(path));
        return text::GrammarVocabulary::create(*text.tokenizer, std::max(width, text.tokenizer->vocab_size()),
                                               text.end_token_ids);
      });
}

absl::StatusOr<std::unique_ptr<kernels::Backend>> WorkerParts::make_backend(
    const WorkerOptions& options) const {
  return kernels::make_device_backend({.device = device(),
                                       .threads = options.threads,
                                       .cpus = options.cpus,
                                       .numerics = parse_numerics(pool.numerics)},
                                      device_options());
}

absl::Status WorkerParts::form_ranks() {
  const std::string layers =
      pool.pipeline == 1
          ? ""
          : cat(" of ", stages_known() ? worker::stages_text(pool.stage_layers) : "measured", " layers");
  const std::string build =
      cat(kVersion, " model ", file->hash(), " tensor ", pool.tensor, " pipeline ", pool.pipeline, layers,
          " ", backend->numerics_id(*parse_kv_type(pool.kv_dtype)), " kv ", pool.kv_memory_bytes, "+",
          pool.kv_host_memory_bytes, " in ", pool.block_tokens, " tokens batch ", pool.max_batch_tokens,
          " context ", context_tokens());
  std::optional<transport::StreamSecurity> security;
  if (manifest.rank_tls(pool)) security = worker_security_of(manifest.control);
  ASSIGN_OR_RETURN(group, RankGroup::form({.place = place,
                                           .shape = shape(),
                                           .worker = cat(manifest.name, "/", description.ref.name),
                                           .build = build,
                                           .incarnation = description.ref.incarnation,
                                           .security = std::move(security),
                                           .clock = clock,
                                           .device = on_gpu() == nullptr ? nullptr : &on_gpu()->device(),
                                           .patience = kRankPatience}));
  description.ref.incarnation = group->incarnation();
  return absl::OkStatus();
}

// By what a layer and the head cost where they run (docs/adr/0010). Every rank comes to the same.
absl::Status WorkerParts::measure_stages(const WorkerOptions& options) {
  ASSIGN_OR_RETURN(const auto probe, make_backend(options));
  ASSIGN_OR_RETURN(const worker::ModelShard even, shard_of_rank(place.rank));
  worker::RankLinks links = group->stage_links(clock);
  worker::StageTrialOptions trial{
      .max_rows = pool.max_batch_tokens,
      .max_positions = context_tokens(),
      .block_tokens = pool.block_tokens,
      .kv = *parse_kv_type(pool.kv_dtype),
      .clock = clock,
      .links = pool.tensor == 1 ? nullptr : &links,
      .on_packed = [this](const kernels::WeightView& matrix) { file->release(matrix); },
      .wait_for_others = [this] { return group->wait_for_all(clock.now() + kRankPatience); }};
  // On a thread of its own: a step pins the thread that makes it, and this one starts all the others.
  absl::StatusOr<worker::StageTimes> measured = absl::InternalError("not measured");
  {
    const AgentThread steps("trial",
                            [&](const auto&) { measured = worker::measure_stage(even, *probe, trial); });
  }
  RETURN_IF_ERROR(from_ranks(measured.status()));
  const worker::StageTimes& times = *measured;
  const worker::StageCost own = worker::cost_of_row(times.decode, times.chunk, decoded_by(pool.role));
  const auto said = group->tell_costs(own, clock.now() + kRankPatience);
  RETURN_IF_ERROR(from_ranks(said.status()));
  ASSIGN_OR_RETURN(const auto costs, worker::stage_costs(*said, pool.tensor));
  pool.stage_layers = worker::split_layers(costs, file->spec().layers);
  const auto ms = [](Duration d) { return 1e3 * to_seconds(d); };
  log_info("stages measured", {{"layers", worker::stages_text(pool.stage_layers)},
                               {"costs", worker::costs_text(costs)},
                               {"tried_layers", times.layers},
                               {"decode_rows", times.decode.rows},
                               {"decode_layer_ms", ms(times.decode.layer)},
                               {"decode_rest_ms", ms(times.decode.rest)},
                               {"chunk_rows", times.chunk.rows},
                               {"chunk_layer_ms", ms(times.chunk.layer)},
                               {"took_ms", ms(times.took)}});
  return absl::OkStatus();
}

int32_t WorkerParts::layers_of(int rank) const {
  return pool.pipeline == 1 ? file->spec().layers : pool.stage_layers[rank / pool.tensor];
}

absl::StatusOr<worker::ModelShard> WorkerParts::shard_of_rank(int rank) const {
  const bool outputs = on_gpu() != nullptr && !on_gpu()->splits_inputs();
  return outputs ? worker::shard_by_outputs(file->spec(), file->weights(), shape(), rank)
                 : worker::shard_of(file->spec(), file->weights(), shape(), rank);
}

// An orchestrator shows every process of a group its own GPU (CUDA_VISIBLE_DEVICES).
std::string WorkerParts::device() const {
  const bool told = place.source != "flags" && place.source != "hosts";
  return told ? pool.device : device_of(pool, {.index = index, .rank = place.rank});
}

void WorkerParts::describe(const WorkerOptions& options, const kernels::KvGeometry& g) {
  description.device = backend->description();
  description.device += on_cores(options.cpus);
  if (pool.pipeline > 1) description.device += cat(", ", worker::stages_text(pool.stage_layers), " layers");
  if (group != nullptr) description.device += cat(", ", group->text());
  description.model_hash = file->hash();
  // Of the whole model, so that workers of different shapes are equal.
  description.kv_layout_hash = worker::kv_layout_hash(
      worker::kv_geometry(file->spec(), g.block_tokens, g.type, g.blocks), backend->kv_layout_name());
  description.numerics_id = backend->numerics_id(g.type);
  // Sums that meet in an order of NCCL's own are a class for each number of ranks, and so is a library's
  // choice for matrices of other shapes.
  if (group != nullptr && on_gpu() != nullptr && (on_gpu()->splits_inputs() || !pool.algorithms.empty()))
    description.numerics_id += cat("/tensor-", pool.tensor);
  description.block_tokens = g.block_tokens;
  description.context_tokens = context_tokens();
  description.blocks_total = g.blocks;
}

// KV memory belongs to the data plane, which may hand it over. A GPU has its own: this is where it comes
// through when no lane leads from GPU to GPU.
absl::StatusOr<std::span<std::byte>> WorkerParts::take_pool(const kernels::KvGeometry& g) {
  transport::DataPlaneOptions data;
  ASSIGN_OR_RETURN(data.lanes, transport::parse_lanes(manifest.transport));
  if (manifest.kv_tls()) {
    data.tls = worker_security_of(manifest.control);
    data.lanes.get_if_rdma = false;  // a NIC's reads are plain
  }
  data.listen_host = addresses.data_host;
  data.listen_port = static_cast<uint16_t>(addresses.data_port);
  data.pool_bytes = g.pool_bytes();
  data.prefault_pool = false;
  data.checksum = manifest.checksum;
  data.identity = {.self = worker::rank_ref(description.ref, place.rank),
                   .host_id = description.host_id,
                   .kv_layout_hash = description.kv_layout_hash,
                   .model_hash = description.model_hash,
                   .numerics_id = description.numerics_id};
  ASSIGN_OR_RETURN(plane, transport::make_process_data_plane(data));
  if (on_gpu() != nullptr) {
    const transport::DeviceLanes lanes{.host_id = description.host_id, .ipc = manifest.transport == "auto"};
    ASSIGN_OR_RETURN(plane,
                     transport::DeviceDataPlane::make(std::move(plane), on_gpu()->device(), lanes, clock));
  }
  return plane->pool();
}

absl::Status WorkerParts::load_model(worker::ModelShard shard, const kernels::KvGeometry& g) {
  ASSIGN_OR_RETURN(const std::span<std::byte> pool_bytes, take_pool(g));
  const worker::LlamaModelOptions model_options{
      .max_rows = pool.max_batch_tokens,
      .max_positions = context_tokens(),
      .on_packed = [this](const kernels::WeightView& matrix) { file->release(matrix); },
      .links = group == nullptr ? nullptr : &group->links()};
  ASSIGN_OR_RETURN(model, worker::LlamaModel::create(std::move(shard), *backend, model_options));
  if (backend->in_host_memory())
    ahead = std::make_unique<worker::PagesAhead>(pool_bytes, g, std::min(kAheadBytes, g.pool_bytes() / 4));
  return backend->attach_kv(pool_bytes, g);
}

void WorkerParts::tell_engine(worker::EngineCommand event) {
  BATON_CHECK(mailbox->post(std::move(event)) || mailbox->closed());
}

// All ranks have loaded their part when this returns.
absl::Status WorkerParts::make_exchange(const kernels::KvGeometry& g, ExchangeSinks sinks) {
  RankGroup::Meeting ranks{.addresses = {plane->address()}};
  if (group != nullptr) {
    auto met = group->meet(plane->address(), clock.now() + kRankPatience);
    RETURN_IF_ERROR(from_ranks(met.status()));
    ranks = *std::move(met);
  }
  description.data_address = worker::to_text({.shape = shape(), .ranks = ranks.addresses});
  mailbox = std::make_unique<worker::EngineMailbox>(kMailboxCapacity);
  worker::KvExchangeOptions options{.geometry = g,
                                    .layout = backend->kv_layout_name(),
                                    .model = worker::split_model(file->spec(), file->weights()),
                                    .shape = shape(),
                                    .rank = place.rank,
                                    .worker = description.ref,
                                    .key = ranks.key,
                                    .addresses = ranks.addresses,
                                    .host_id = description.host_id,
                                    .fence = group == nullptr ? nullptr : &group->links().fence(),
                                    .lost = std::move(sinks.lost),
                                    .on_phase = pause_point(rank_name(description.ref.name, place.rank))};
  options.events = [this](worker::KvEvent e) { tell_engine(std::move(e)); };
  if (host_copier != nullptr) {
    options.host = host_copier.get();
    options.host_slots = host_copier->slots();
    options.copied = [this](worker::HostCopied e) { tell_engine(std::move(e)); };
  }
  options.peers = std::move(sinks.peers);
  ASSIGN_OR_RETURN(exchange, worker::KvExchangeAgent::create(*plane, std::move(options)));
  return absl::OkStatus();
}

absl::Status WorkerParts::make_host_copier(const kernels::KvGeometry& g) {
  if (pool.kv_host_memory_bytes == 0) return absl::OkStatus();
  if (host_blocks() < 1)
    return absl::InvalidArgumentError(cat("pool ", pool.name, ": kv.hostMemory ",
                                          format_bytes(pool.kv_host_memory_bytes),
                                          " does not hold a block of ", format_bytes(block_bytes.largest)));
  kernels::Device* const device = on_gpu() == nullptr ? nullptr : &on_gpu()->device();
  // In a group the engine hears of it when all ranks have copied.
  worker::HostCopiedSink sink = [this](worker::HostCopied e) {
    if (group != nullptr) return exchange->copied(std::move(e));
    tell_engine(std::move(e));
  };
  ASSIGN_OR_RETURN(host_copier,
                   worker::HostCopier::make({.geometry = g,
                                             .pool = device == nullptr ? plane->pool() : device->kv_pool(),
                                             .slots = host_blocks(),
                                             .device = device},
                                            clock, std::move(sink)));
  return absl::OkStatus();
}

absl::Status WorkerParts::make_engine() {
  worker::EngineOptions options;
  if (host_copier != nullptr) {
    options.host = {.slots = host_copier->slots(), .copies = host_copier.get()};
    if (group != nullptr) options.host.copies = exchange.get();
  }
  options.blocks = description.blocks_total;
  options.block_tokens = description.block_tokens;
  options.scheduler.vocab_size = static_cast<int32_t>(file->spec().vocab_size);
  options.scheduler.context_tokens = description.context_tokens;
  options.scheduler.token_budget = pool.max_batch_tokens;
  options.scheduler.max_running = std::min(pool.max_sequences, pool.max_batch_tokens);
  options.scheduler.plans_in_flight = pool.pipeline;
  options.scheduler.feeds_back = runner->feeds_back();
  if (options.scheduler.feeds_back != nullptr) options.scheduler.plans_in_flight = 2;
  options.scheduler.itl_objective =
      std::chrono::duration_cast<Duration>(manifest.itl_objective * kStepShareOfItl);
  engine = std::make_unique<worker::Engine>(options, *exchange);
  return absl::OkStatus();
}

}  // namespace baton::cli
