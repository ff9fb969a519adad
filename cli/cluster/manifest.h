#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "cli/cluster/gateway_manifest.h"
#include "cli/cluster/network_manifest.h"
#include "transport/messages/messages.h"

namespace baton::cli {

// One pool of equal workers, as the manifest says. Worker i of pool "prefill" is named "prefill-i".
struct PoolManifest {
  std::string name;
  WorkerRole role = WorkerRole::kAny;
  int replicas = 1;
  std::string device = "cpu";  // cpu, reference, cuda (kernels/cuda/device_name.h)
  std::string numerics =
      "bf16dot";  // f32, bf16dot: how bf16 weights and bf16 KV are multiplied; cuda: invariant, fastest
  std::string quantization = "auto";  // auto, none, fp8: of matrices on cuda
  std::string algorithms;             // numerics invariant: the file that `baton tune` wrote
  int cpu = 0;                        // threads of each rank; 0 = an equal share of the machine's
  int tensor = 1, pipeline = 1;       // a worker of more than one rank is a group of processes
  std::vector<int32_t>
      stage_layers;                // of each stage of pipeline; empty: by what they cost, measured at start
  std::string stage_layers_place;  // in the file, for mistakes that only the model shows
  std::string rendezvous;          // where rank 0 of the group listens, when not the flags say; host:port
  int rendezvous_port = 7100;      // when the orchestrator names rank 0's host only
  bool insecure_ranks = false;     // ranks talk in plain text, off loopback too
  std::vector<std::string> hosts;  // of each process, or of each worker; empty: who starts them says
  NetworkManifest network;
  uint64_t kv_memory_bytes = 512ull << 20;  // of each rank
  uint64_t kv_host_memory_bytes = 0;        // where blocks are kept that kv_memory_bytes has no room for
  int block_tokens = 16;
  std::string kv_dtype = "bf16";  // f32, bf16, f16, int8
  int max_batch_tokens = 512;     // rows of one engine step
  int max_sequences = 64;         // sequences in one engine step

  int ranks() const { return tensor * pipeline; }
  // With hosts only.
  const std::string& host_of(int index, int rank) const {
    return hosts.size() == static_cast<size_t>(replicas) ? hosts[index] : hosts[index * ranks() + rank];
  }
};

// A `kind: Cluster` file: what runs, with which limits. Every field has its default here; docs/manifest.md
// lists them.
struct ClusterManifest {
  std::string name = "baton";
  std::string model_source = "default";  // "default", a GGUF file, or a Hugging Face directory
  std::vector<std::string> model_names;
  int context_tokens = 0;  // 0 = what the model was trained for
  GatewayManifest gateway;
  ControlManifest control;
  std::vector<PoolManifest> pools;  // at least one
  std::string transport = "auto";   // auto, local, socket, am, get
  bool checksum = true;
  bool insecure_transfer = false;  // KV in plain text, on the network too
  int min_prompt_tokens = 0;       // shorter prompts are computed on the decode worker
  int decode_prefill_tokens = 0;   // decode workers take such prompts off a queue of prefill workers
  std::string on_prefill_failure = "local";
  Duration itl_objective = std::chrono::milliseconds(40);

  int workers() const;
  int processes() const;  // of all workers: one for each rank
  std::vector<int> processes_of_pools() const;
  // What is to be said of a model that was trained for fewer tokens than context_tokens; empty: nothing.
  std::string context_notice(int64_t trained) const;
  // KV between workers goes over TLS, with the certificates of `control`.
  bool kv_tls() const;
  // So do the ranks of a worker of this pool, where they do not share a host's memory.
  bool rank_tls(const PoolManifest& pool) const;
};

// All mistakes at once, each as file:line:column: key: what is wrong. A relative model path is taken from the
// file's folder.
absl::StatusOr<ClusterManifest> parse_manifest(const std::string& file, const std::string& text);
absl::StatusOr<ClusterManifest> read_manifest(const std::string& file);
// The manifest with every field written out; parse_manifest() of it gives an equal one.
std::string to_yaml(const ClusterManifest& manifest);

}  // namespace baton::cli
