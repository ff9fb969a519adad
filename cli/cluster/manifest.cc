#include "cli/cluster/manifest.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "base/cat.h"
#include "base/config_file.h"
#include "base/timers.h"
#include "cli/cluster/host_address.h"
#include "cli/cluster/pool_ports.h"
#include "cli/cluster/rank_place.h"
#include "kernels/cuda/device_name.h"

namespace baton::cli {
namespace {

constexpr uint64_t kMi = 1ull << 20;
constexpr uint64_t kTi = 1ull << 40;
// What a pool has on GPUs when nothing is said.
constexpr uint64_t kCudaKvBytes = 8ull << 30;
constexpr int kCudaBatchTokens = 2048, kCudaSequences = 256;
using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;

WorkerRole role_from(const std::string& text) {
  return text == "prefill" ? WorkerRole::kPrefill : text == "decode" ? WorkerRole::kDecode : WorkerRole::kAny;
}

const char* role_name(WorkerRole role) {
  return role == WorkerRole::kPrefill ? "prefill" : role == WorkerRole::kDecode ? "decode" : "any";
}

// Names become process names, file names and metric labels.
bool is_plain_name(const std::string& name) {
  return !name.empty() && name.size() <= 63 && std::ranges::all_of(name, [](unsigned char c) {
    return std::isalnum(c) || c == '-' || c == '_' || c == '.';
  });
}

std::string folder_of(const std::string& file) {
  return std::filesystem::absolute(file).parent_path().string();
}

// What ranks on several machines lack, and how to mend it.
constexpr const char* kPlainRanks =
    "ranks talk without TLS: give control.tls (docs/multi_host.md has the commands), or set ";

// That they are the model's layers together is seen where the model is (baton validate, baton worker).
void read_stage_layers(ConfigObject& parallel, PoolManifest& out) {
  for (const int64_t layers : parallel.integers("stageLayers", 1, 65536))
    out.stage_layers.push_back(static_cast<int32_t>(layers));
  out.stage_layers_place = parallel.place("stageLayers");
  const auto stages = static_cast<int>(out.stage_layers.size());
  if (!parallel.has("stageLayers")) return;
  if (out.pipeline == 1) {
    parallel.fail("stageLayers", "is for parallel.pipeline above 1: one stage has all layers");
  } else if (stages != out.pipeline) {
    parallel.fail("stageLayers",
                  cat("want ", out.pipeline, " numbers, one for each stage of pipeline, got ", stages));
  }
}

void read_parallel(ConfigObject parallel, bool tls, PoolManifest& out) {
  out.tensor = static_cast<int>(parallel.integer("tensor", 1, 1, 32));
  out.pipeline = static_cast<int>(parallel.integer("pipeline", 1, 1, 32));
  if (out.ranks() > 32)
    parallel.fail("tensor", cat("tensor x pipeline is ", out.ranks(), "; want 32 at most"));
  read_stage_layers(parallel, out);
  out.rendezvous = parallel.string("rendezvous", "");
  out.rendezvous_port = static_cast<int>(parallel.integer("port", out.rendezvous_port, 1, 65535));
  out.insecure_ranks = parallel.boolean("insecureAllowPlaintextOffLoopback", false);
  if (!out.rendezvous.empty() && out.rendezvous.rfind(':') == std::string::npos)
    parallel.fail("rendezvous", cat("want host:port, got '", out.rendezvous, "'"));
  if (!stays_on_host(out.rendezvous) && !out.insecure_ranks && !tls)
    parallel.fail("rendezvous",
                  cat("'", out.rendezvous, "' is reachable from other machines, and ", kPlainRanks,
                      "insecureAllowPlaintextOffLoopback: true if their network is private"));
  parallel.done();
}

// The first worker whose ranks are not on one machine; -1: there is none, or who starts them says.
int first_apart(const PoolManifest& p) {
  if (p.hosts.empty()) return -1;
  for (int i = 0; i < p.replicas * p.ranks(); ++i)
    if (p.host_of(i / p.ranks(), i % p.ranks()) != p.host_of(i / p.ranks(), 0)) return i / p.ranks();
  return -1;
}

// Ranks on different machines want TLS; workers that are elsewhere must find the coordinator.
void read_hosts(ConfigObject& pool, PoolManifest& out, const ControlManifest& control) {
  out.hosts = pool.strings("hosts");
  if (out.hosts.empty()) return;
  const int processes = out.replicas * out.ranks();
  const int names = static_cast<int>(out.hosts.size());
  if (names != processes && names != out.replicas) {
    pool.fail("hosts", cat("want ", processes, processes == 1 ? " host" : " hosts", ", one for each of ",
                           out.replicas, " x ", out.ranks(), " processes",
                           out.ranks() > 1 ? cat(", or ", out.replicas, ", one for each worker") : "",
                           "; got ", names));
    out.hosts.clear();
    return;
  }
  for (const std::string& host : out.hosts)
    if (host.empty() || is_loopback_host(host) || is_wildcard_host(host) || host.find('/') != host.npos)
      pool.fail("hosts", cat("want names or addresses of machines, got '", host, "'"));
  if (control.join_address().empty())
    pool.fail("hosts",
              "how do workers there find the coordinator? Give control.listen an address and a port, or "
              "control.join");
  if (const int worker = first_apart(out); worker >= 0 && !out.insecure_ranks && !control.tls)
    pool.fail("hosts", cat("ranks of worker ", worker, " are on different machines, and ", kPlainRanks,
                           "parallel.insecureAllowPlaintextOffLoopback: true if their network is private"));
}

// What the device cannot do is refused; "auto" is what the checkpoint is, where the device has it.
void read_quantization(ConfigObject& pool, bool cuda, PoolManifest& out) {
  out.quantization = pool.choice("quantization", out.quantization, {"auto", "none", "fp8"});
  if (out.quantization != "fp8") return;
  if (!cuda)
    pool.fail("quantization", cat("device ", out.device,
                                  " does not multiply fp8: fp8 checkpoints are opened to bf16 there, other "
                                  "formats are computed with as they are; want auto, or device cuda"));
  else if (out.numerics != "bf16dot")
    pool.fail("quantization",
              cat("numerics ", out.numerics, " multiplies in bf16: want numerics bf16dot for fp8"));
}

// The table that `numerics: invariant` computes with; relative to the manifest.
void read_algorithms(ConfigObject& pool, const std::string& folder, PoolManifest& out) {
  const std::string file = pool.string("algorithms", "");
  if (file.empty() == (out.numerics == "invariant"))
    pool.fail("algorithms", file.empty()
                                ? "numerics invariant wants the file that baton tune -m MODEL -o FILE wrote"
                                : "only numerics: invariant takes a table of algorithms");
  if (!file.empty()) out.algorithms = (std::filesystem::path(folder) / file).lexically_normal().string();
}

// device, numerics and quantization; true for a GPU.
bool read_device(ConfigObject& pool, PoolManifest& out) {
  using kernels::cuda::DeviceName;
  const bool cuda = DeviceName::is_cuda(pool.string("device", out.device));
  if (!cuda) {
    out.device = pool.choice("device", out.device, {"cpu", "reference", "cuda"});
    out.numerics =
        pool.choice("numerics", out.device == "reference" ? "f32" : out.numerics, {"f32", "bf16dot"});
    if (out.numerics == "bf16dot" && out.device == "reference")
      pool.fail("numerics", "device reference computes in float32");
    read_quantization(pool, false, out);
    return false;
  }
  out.device = pool.string("device", out.device);
  if (const auto parsed = DeviceName::parse(out.device); !parsed.ok())
    pool.fail("device", std::string(parsed.status().message()));
  out.numerics = pool.choice("numerics", out.numerics, {"bf16dot", "invariant", "fastest"});
  read_quantization(pool, true, out);
  return true;
}

PoolManifest read_pool(const std::string& name, ConfigObject& pool, const ControlManifest& control,
                       const std::string& folder) {
  PoolManifest out;
  out.name = name;
  if (!is_plain_name(name)) pool.fail("", "want a name of letters, digits, '-', '_', '.' (63 at most)");
  const bool named_for_role = name == "prefill" || name == "decode";
  out.role = role_from(pool.choice("role", named_for_role ? name : "any", {"prefill", "decode", "any"}));
  out.replicas = static_cast<int>(pool.integer("replicas", 1, 1, 64));
  const bool cuda = read_device(pool, out);
  read_algorithms(pool, folder, out);
  ConfigObject resources = pool.object("resources");
  out.cpu = static_cast<int>(resources.integer("cpu", 0, 1, 1024));
  resources.done();
  read_parallel(pool.object("parallel"), control.tls.has_value(), out);
  read_hosts(pool, out, control);
  out.network = read_network(pool.object("network"));
  const auto gpu = kernels::cuda::DeviceName::parse(out.device);
  if (cuda && out.ranks() > 1 && gpu.ok() && !gpu->uuid.empty())
    pool.fail("device",
              cat("every rank of a group needs a GPU of its own, got ", out.device,
                  ": want cuda, or cuda:<index>, from which on the ranks on a machine take one each"));
  if (cuda && first_apart(out) >= 0 && !out.insecure_ranks)
    pool.fail("hosts",
              "GPUs of several machines exchange activations by NCCL, which has no TLS: keep the ranks of "
              "a worker on one machine, or set parallel.insecureAllowPlaintextOffLoopback: true if "
              "their network is private");
  if (cuda && out.pipeline > 1) pool.fail("parallel", "stages on GPUs are not there yet: want pipeline 1");
  ConfigObject kv = pool.object("kv");
  if (cuda) out.kv_memory_bytes = kCudaKvBytes;
  out.kv_memory_bytes = kv.bytes("memory", out.kv_memory_bytes, kMi / 4, kTi);
  out.kv_host_memory_bytes = kv.bytes("hostMemory", 0, 0, 16 * kTi);
  if (out.kv_host_memory_bytes > 0 && out.kv_host_memory_bytes < kMi / 4)
    kv.fail("hostMemory", "want 0 (nothing is kept there), or 256Ki at least");
  out.block_tokens = static_cast<int>(kv.integer("blockTokens", cuda ? 64 : out.block_tokens, 1, 256));
  if (out.block_tokens % 16 != 0)
    kv.fail("blockTokens", cat("want a multiple of 16, got ", out.block_tokens));
  if (cuda && 256 % out.block_tokens != 0)
    kv.fail("blockTokens", cat("device cuda wants 16, 32, 64, 128 or 256, got ", out.block_tokens));
  out.kv_dtype =
      kv.choice("dtype", out.device == "reference" ? "f32" : out.kv_dtype, {"f32", "bf16", "f16", "int8"});
  if (cuda && out.kv_dtype != "bf16") kv.fail("dtype", "device cuda stores bf16");
  kv.done();
  ConfigObject batch = pool.object("batch");
  if (cuda) out.max_batch_tokens = kCudaBatchTokens, out.max_sequences = kCudaSequences;
  out.max_batch_tokens = static_cast<int>(batch.integer("tokens", out.max_batch_tokens, 16, 65536));
  out.max_sequences = static_cast<int>(batch.integer("sequences", out.max_sequences, 1, 4096));
  batch.done();
  pool.done();
  return out;
}

// KV goes between GPUs whichever they are; what each computes its numerics id says, which workers compare.
std::string_view kind_of(const std::string& device) {
  return kernels::cuda::DeviceName::is_cuda(device) ? "cuda" : std::string_view(device);
}

void read_pools(ConfigObject& spec, const std::string& folder, ClusterManifest& out) {
  bool has_prefill = false, has_decode = false, has_any = false;
  for (auto& [name, pool] : spec.objects("pools")) {
    out.pools.push_back(read_pool(name, pool, out.control, folder));
    has_prefill |= out.pools.back().role == WorkerRole::kPrefill;
    has_decode |= out.pools.back().role == WorkerRole::kDecode;
    has_any |= out.pools.back().role == WorkerRole::kAny;
  }
  if (out.pools.empty()) out.pools.push_back(PoolManifest{.name = "any"});
  if (!has_any && has_prefill != has_decode && !out.pools.empty() && (has_prefill || has_decode))
    spec.fail("pools", has_prefill ? "there is a prefill pool but no pool with role decode or any"
                                   : "there is a decode pool but no pool with role prefill or any");
  const PoolManifest& first = out.pools.front();
  for (const PoolManifest& p : out.pools)
    if (p.block_tokens != first.block_tokens || p.kv_dtype != first.kv_dtype ||
        kind_of(p.device) != kind_of(first.device) || p.numerics != first.numerics ||
        p.quantization != first.quantization)
      spec.fail(
          "pools",
          cat("pools ", first.name, " and ", p.name,
              " differ in device, numerics, quantization, kv.dtype or kv.blockTokens: their KV cannot be "
              "handed over, which would "
              "switch disaggregation off"));
  for (const PoolManifest& p : out.pools)
    if (p.device == "reference" && p.tensor != first.tensor)
      spec.fail("pools",
                cat("pools ", first.name, " and ", p.name,
                    " differ in parallel.tensor: device reference stores KV by rows, which cannot be "
                    "cut by heads; want the same tensor, or device cpu"));
  if (const std::string clash = port_clash(out.pools); !clash.empty()) spec.fail("pools", clash);
  if (out.processes() > 64 &&
      std::ranges::all_of(out.pools, [](const PoolManifest& p) { return p.hosts.empty(); }))
    spec.fail("pools", cat(out.processes(), " workers and ranks on one machine; want 64 at most"));
}

// Workers on the network want TLS for KV, or say that they know.
void read_transfer(ConfigObject transfer, ClusterManifest& out) {
  out.transport = transfer.choice("transport", out.transport, {"auto", "local", "socket", "am", "get"});
  out.checksum = transfer.boolean("checksum", out.checksum);
  if (!out.checksum && (out.transport == "am" || out.transport == "get"))
    transfer.fail("checksum",
                  cat("transport ", out.transport,
                      " needs checksums: a receiver that was stopped for a while cannot see there that the "
                      "sender has given the blocks to somebody else; want true, or transport auto, local or "
                      "socket"));
  out.insecure_transfer = transfer.boolean("insecureAllowPlaintextOffLoopback", false);
  const auto join = split_host_port(out.control.join_address());
  const bool off_host = join && !is_loopback_host(join->host);
  for (const PoolManifest& p : out.pools) {
    const bool exposed = p.network.data.empty() ? off_host : !is_loopback_host(p.network.data);
    if (!exposed || out.insecure_transfer || out.kv_tls()) continue;
    transfer.fail(
        "insecureAllowPlaintextOffLoopback",
        cat("workers of pool ", p.name, " listen for KV on the network, and KV travels without TLS: ",
            out.control.tls ? cat("use transport auto or socket in place of ", out.transport)
                            : "give control.tls (docs/multi_host.md has the commands)",
            ", or set it to true if that network is private, or keep the pool's network.data on "
            "127.0.0.1"));
    break;
  }
  transfer.done();
}

void read_model(ConfigObject model, const std::string& file, ClusterManifest& out) {
  out.model_source = model.string("source", out.model_source);
  if (out.model_source.starts_with("file://")) out.model_source = out.model_source.substr(7);
  if (out.model_source.empty())
    model.fail("source", "want 'default', a GGUF file or a Hugging Face directory");
  if (out.model_source != "default" && !out.model_source.starts_with('/')) {
    out.model_source =
        (std::filesystem::path(folder_of(file)) / out.model_source).lexically_normal().string();
  }
  out.model_names = model.strings("names");
  for (const std::string& n : out.model_names)
    if (n.empty() || n.size() > 200) model.fail("names", "want names of 1 to 200 characters");
  std::set<std::string_view> seen;
  for (const std::string& n : out.model_names)
    if (!seen.insert(n).second) model.fail("names", cat("want each name once, got '", n, "' again"));
  out.context_tokens = static_cast<int>(model.integer("contextTokens", 0, 16, 10000000));
  model.done();
}

}  // namespace

int ClusterManifest::workers() const {
  int n = 0;
  for (const PoolManifest& p : pools) n += p.replicas;
  return n;
}

int ClusterManifest::processes() const {
  int n = 0;
  for (const PoolManifest& p : pools) n += p.replicas * p.ranks();
  return n;
}

// RDMA and UCX have none: what they move is plain.
bool ClusterManifest::kv_tls() const {
  return control.tls.has_value() && !insecure_transfer && transport != "am" && transport != "get";
}

bool ClusterManifest::rank_tls(const PoolManifest& pool) const {
  return control.tls.has_value() && !pool.insecure_ranks;
}

std::string ClusterManifest::context_notice(int64_t trained) const {
  if (context_tokens <= trained) return "";
  return cat("spec.model.contextTokens is ", context_tokens, ", and the model was trained for ", trained,
             ": requests may have ", trained, " tokens");
}

std::vector<int> ClusterManifest::processes_of_pools() const {
  std::vector<int> out;
  for (const PoolManifest& p : pools) out.push_back(p.replicas * p.ranks());
  return out;
}

absl::StatusOr<ClusterManifest> parse_manifest(const std::string& file, const std::string& text) {
  ASSIGN_OR_RETURN(ConfigFile config, ConfigFile::parse(file, text));
  ClusterManifest out;
  ConfigObject root = config.root();
  if (const std::string v = root.string("apiVersion"); v != "baton/v1")
    root.fail("apiVersion", cat("want baton/v1, got '", v, "'"));
  if (const std::string kind = root.string("kind"); kind != "Cluster")
    root.fail("kind", cat("want Cluster, got '", kind, "'"));
  ConfigObject metadata = root.object("metadata");
  out.name = metadata.string("name", out.name);
  if (!is_plain_name(out.name))
    metadata.fail("name", "want a name of letters, digits, '-', '_', '.' (63 at most)");
  metadata.done();

  ConfigObject spec = root.object("spec");
  read_model(spec.object("model"), file, out);
  out.gateway = read_gateway(spec.object("gateway"), folder_of(file));
  out.control = read_control(spec.object("control"), folder_of(file));
  read_pools(spec, folder_of(file), out);
  read_transfer(spec.object("transfer"), out);
  ConfigObject routing = spec.object("routing");
  ConfigObject disaggregate = routing.object("disaggregate");
  out.min_prompt_tokens = static_cast<int>(disaggregate.integer("minPromptTokens", 0, 0, 10000000));
  out.decode_prefill_tokens = static_cast<int>(disaggregate.integer("decodePrefillTokens", 0, 0, 10000000));
  out.on_prefill_failure =
      disaggregate.choice("onPrefillFailure", out.on_prefill_failure, {"error", "local"});
  disaggregate.done();
  routing.done();
  ConfigObject slo = spec.object("slo");
  ConfigObject itl = slo.object("itl");
  out.itl_objective = itl.duration("p95", out.itl_objective, milliseconds(1), seconds(60));
  itl.done();
  slo.done();
  spec.done();
  root.done();
  RETURN_IF_ERROR(config.status());
  return out;
}

absl::StatusOr<ClusterManifest> read_manifest(const std::string& file) {
  struct stat st{};
  if (::stat(file.c_str(), &st) != 0) return absl::NotFoundError(cat(file, ": no such manifest"));
  if (!S_ISREG(st.st_mode)) return absl::InvalidArgumentError(cat(file, ": not a file"));
  std::ifstream in(file, std::ios::binary);
  if (!in) return absl::PermissionDeniedError(cat(file, ": cannot be read"));
  std::ostringstream text;
  text << in.rdbuf();
  return parse_manifest(file, text.str());
}

namespace {

const char* bool_text(bool value) { return value ? "true" : "false"; }

std::string parallel_yaml(const PoolManifest& p) {
  if (p.ranks() == 1) return "";
  std::vector<std::string> layers;
  for (const int32_t n : p.stage_layers) layers.push_back(std::to_string(n));
  return cat("\n      parallel: {tensor: ", p.tensor, ", pipeline: ", p.pipeline,
             layers.empty() ? "" : cat(", stageLayers: [", join(layers, ", "), "]"),
             ", port: ", p.rendezvous_port,
             p.rendezvous.empty() ? "" : cat(", rendezvous: ", quoted_yaml(p.rendezvous)),
             ", insecureAllowPlaintextOffLoopback: ", bool_text(p.insecure_ranks), "}");
}

std::string hosts_yaml(const PoolManifest& p) {
  return p.hosts.empty() ? "" : cat("\n      hosts: ", list_yaml(p.hosts));
}

std::string pool_yaml(const PoolManifest& p) {
  return cat("    ", quoted_yaml(p.name), ":\n      role: ", role_name(p.role),
             "\n      replicas: ", p.replicas, "\n      device: ", p.device, "\n      numerics: ", p.numerics,
             "\n      quantization: ", p.quantization,
             p.algorithms.empty() ? "" : cat("\n      algorithms: ", quoted_yaml(p.algorithms)),
             p.cpu > 0 ? cat("\n      resources: {cpu: ", p.cpu, "}") : "", parallel_yaml(p), hosts_yaml(p),
             network_yaml(p.network), "\n      kv: {memory: ", p.kv_memory_bytes,
             ", hostMemory: ", p.kv_host_memory_bytes, ", blockTokens: ", p.block_tokens,
             ", dtype: ", p.kv_dtype, "}\n      batch: {tokens: ", p.max_batch_tokens,
             ", sequences: ", p.max_sequences, "}\n");
}

}  // namespace

std::string to_yaml(const ClusterManifest& m) {
  std::string out = cat("apiVersion: baton/v1\nkind: Cluster\nmetadata: {name: ", quoted_yaml(m.name),
                        "}\nspec:\n  model:\n    source: ", quoted_yaml(m.model_source),
                        "\n    names: ", list_yaml(m.model_names), "\n");
  if (m.context_tokens > 0) out += cat("    contextTokens: ", m.context_tokens, "\n");
  out += cat(gateway_yaml(m.gateway), control_yaml(m.control), "  pools:\n");
  for (const PoolManifest& p : m.pools) out += pool_yaml(p);
  out += cat("  transfer: {transport: ", m.transport, ", checksum: ", bool_text(m.checksum),
             ", insecureAllowPlaintextOffLoopback: ", bool_text(m.insecure_transfer), "}\n");
  out += cat("  routing: {disaggregate: {minPromptTokens: ", m.min_prompt_tokens,
             ", decodePrefillTokens: ", m.decode_prefill_tokens, ", onPrefillFailure: ", m.on_prefill_failure,
             "}}\n");
  out += cat("  slo: {itl: {p95: ", microseconds_text(m.itl_objective), "}}\n");
  return out;
}

}  // namespace baton::cli
