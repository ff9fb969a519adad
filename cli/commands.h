#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/cluster/exit_codes.h"

// The user's commands (those that measure: bench/bench_commands.h) and the processes they start. Each returns
// the exit code. Thread: main.
namespace baton::cli {

struct ServeOptions {
  std::string model;     // empty: what the manifest says
  std::string manifest;  // empty: the local one that is built in
  int port = -1;         // -1: what the manifest says
  std::string api_keys;  // file; empty: what the manifest says
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

struct KeyOptions {
  std::string file;  // gets a line; made when it is not there
  std::string tenant;
  bool is_operator = false;
  bool from_stdin = false;  // a key that its user has already; else a new one is made and printed
};
int run_key(const KeyOptions& options);

struct ChatOptions {
  std::string url;  // host:port; empty: this home's cluster
  std::string system;
  double temperature = 0.2;
  int max_tokens = 512;
};
int run_chat(const ChatOptions& options);

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
  std::string listen;     // ADDRESS[:PORT] of the control connection (cli/cluster/worker_address.h)
  std::string data;       // ADDRESS[:PORT] of KV
  std::string metrics;    // ADDRESS[:PORT] of /metrics, /live, /ready
  std::string advertise;  // host that the coordinator connects to; empty: that of `listen`
  int rank = -1;  // in a group of several; -1: what the environment or `hosts` say (cli/cluster/rank_place.h)
  std::string rendezvous;             // where rank 0 listens; empty: what manifest or environment say
  std::vector<int32_t> stage_layers;  // of each stage; empty: what the manifest says
  int threads = 1;
  std::vector<int> cpus;
  std::string log_dir;  // lines go to NAME.log there; empty: stderr
  int report_fd = -1;   // "loaded" and, of rank 0, "joined" go there when it is so, a line each
};
int run_worker(const WorkerOptions& options);

}  // namespace baton::cli
