#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"
#include "cli/cluster/exit_codes.h"

// The commands that measure. Each returns the exit code. Thread: main.
namespace baton::cli {

struct BenchServeOptions {
  std::string url;
  int clients = 4;
  int requests = 32;
  int prompt_tokens = 128;
  int output_tokens = 64;
  uint64_t seed = 1;
  bool json = false;
  std::string scenarios;  // "S1..S7,G"; empty: the closed loop that the fields above describe
  double scale = 1;       // of the scenarios' counts of requests
  std::string model;      // G: whose tokenizer; empty: the running cluster's, else the default
};
int run_bench_serve(const BenchServeOptions& options);
int run_bench_scenarios(const BenchServeOptions& options);

// Every combination of the lists is one row of the report.
struct BenchEngineOptions {
  std::string model = "default";
  std::vector<int> prompt_tokens{512};  // 0: no prefill
  std::vector<int> output_tokens{128};  // 0: no decode
  std::vector<int> batches{1};
  std::vector<int> depths{0};
  std::vector<int> threads;  // empty: every core
  int repetitions = 5;
  int chunk = 512;  // rows of the largest step, as a worker's maxBatchTokens
  std::string kv_type = "bf16";
  std::string numerics = "bf16dot";
  std::string isa;  // tests only
  bool json = false;
};
int run_bench_engine(const BenchEngineOptions& options);

// Where one process of a pair runs.
struct BenchHost {
  std::string network;                // namespace of `ip netns`, or a path; empty: the one we are in
  std::string address = "127.0.0.1";  // numeric, of an interface there
};

struct BenchTransferOptions {
  std::vector<std::string> lanes{"local", "socket", "socket-tls", "am", "get-emulated"};
  std::vector<uint64_t> pieces{16 << 10, 64 << 10, 256 << 10, 1 << 20};  // bytes
  uint64_t pool_bytes = uint64_t{512} << 20;                             // of each process
  uint64_t total_bytes = uint64_t{512} << 20;                            // moved per measurement
  int repetitions = 5;
  bool json = false;
  BenchHost sender, receiver;
  std::string to;     // the receiving processes are on another machine, which serves them at this address
  std::string serve;  // this is that machine: measures nothing itself
  bool insecure_plaintext = false;  // `serve` may be off loopback
};
int run_bench_transfer(const BenchTransferOptions& options);

// Every combination of lanes and ranks is one group of processes; each does every operation on every size.
struct BenchCollectivesOptions {
  std::vector<std::string> lanes{"shm", "socket", "socket-tls"};
  std::vector<int> ranks{2};
  std::vector<uint64_t> bytes{64, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304};
  int calls = 20000;  // of a row, at most
  bool json = false;
};
int run_bench_collectives(const BenchCollectivesOptions& options);

// ---- the process that only the gateway benchmark starts

inline constexpr const char* kMockCluster = "gateway-benchmark";  // the only manifest a mock worker takes
struct MockWorkerOptions {
  std::string manifest;
  std::string join;
  Duration step{};  // how long a step takes
};
int run_mock_worker(const MockWorkerOptions& options);

}  // namespace baton::cli
