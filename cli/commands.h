#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"

// The user's commands. Each returns the exit code: 0 ok, 1 failed, 2 usage, 3 not ready. Thread: main.
namespace baton::cli {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitNotReady = 3;
inline constexpr int kExitRankLost = 4;  // of a rank: another one of its group is gone or silent

struct ServeOptions {
  std::string model;     // empty: what the manifest says
  std::string manifest;  // empty: the local one that is built in
  int port = -1;         // -1: what the manifest says
  bool detach = false;
};
int run_serve(const ServeOptions& options);
int run_down();

struct PsOptions {
  std::string url;  // host:port of a coordinator; empty: this home's cluster
  bool json = false;
};
int run_ps(const PsOptions& options);

struct LogsOptions {
  std::string process;  // empty: all
  int lines = 50;
};
int run_logs(const LogsOptions& options);
int run_validate(const std::string& file);

struct ChatOptions {
  std::string url;  // host:port; empty: this home's cluster
  std::string system;
  double temperature = 0.2;
  int max_tokens = 512;
};
int run_chat(const ChatOptions& options);

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

struct BenchTransferOptions {
  std::vector<std::string> lanes{"local", "socket", "am"};
  std::vector<uint64_t> pieces{16 << 10, 64 << 10, 256 << 10, 1 << 20};  // bytes
  uint64_t pool_bytes = uint64_t{512} << 20;                             // of each process
  uint64_t total_bytes = uint64_t{512} << 20;                            // moved per measurement
  int repetitions = 5;
  bool json = false;
};
int run_bench_transfer(const BenchTransferOptions& options);

// Every combination of lanes and ranks is one group of processes; each does every operation on every size.
struct BenchCollectivesOptions {
  std::vector<std::string> lanes{"shm", "socket"};
  std::vector<int> ranks{2};
  std::vector<uint64_t> bytes{64, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304};
  int calls = 20000;  // of a row, at most
  bool json = false;
};
int run_bench_collectives(const BenchCollectivesOptions& options);

// ---- the processes that the supervisor starts

struct CoordinatorOptions {
  std::string manifest;
  std::string http;        // host:port instead of the manifest's
  std::string membership;  // host:port of the membership service; empty: control.listen of the manifest
  std::string log_dir;     // lines go to NAME.log there; empty: stderr
  int report_fd = -1;      // one JSON line with the addresses goes there
};
int run_coordinator(const CoordinatorOptions& options);

struct WorkerOptions {
  std::string manifest;
  std::string pool;
  int index = -1;    // -1: the one that `hosts` puts on this machine, else 0
  std::string join;  // host:port of the coordinator's membership service; rank 0 only. Empty: the manifest's
  std::string listen;     // ADDRESS[:PORT] of the control connection (cli/worker_address.h)
  std::string data;       // ADDRESS[:PORT] of KV
  std::string metrics;    // ADDRESS[:PORT] of /metrics, /live, /ready
  std::string advertise;  // host that the coordinator connects to; empty: that of `listen`
  int rank = -1;          // in a group of several; -1: what the environment or `hosts` say (cli/rank_place.h)
  std::string rendezvous;  // where rank 0 listens; empty: what manifest or environment say
  int threads = 1;
  std::vector<int> cpus;
  std::string log_dir;  // lines go to NAME.log there; empty: stderr
};
int run_worker(const WorkerOptions& options);

// ---- the process that only the gateway benchmark starts

inline constexpr const char* kMockCluster = "gateway-benchmark";  // the only manifest a mock worker takes
struct MockWorkerOptions {
  std::string manifest;
  std::string join;
  Duration step{};  // how long a step takes
};
int run_mock_worker(const MockWorkerOptions& options);

}  // namespace baton::cli
