// The one binary. Picks the command; what each does stands in the file of its name (serve.cc,
// worker_process.cc, ...).
#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "cli/bench/bench_commands.h"
#include "cli/cluster/version.h"
#include "cli/commands.h"
#include "cli/tune.h"

using namespace baton::cli;

namespace {

// Every add_ function owns the options of one command for the life of the program and stores the exit code.
struct Commands {
  ServeOptions serve;
  PsOptions ps;
  LogsOptions logs;
  std::string manifest;
  KeyOptions key;
  TuneOptions tune;
  ChatOptions chat;
  BenchServeOptions bench;
  BenchEngineOptions bench_engine;
  BenchTransferOptions bench_transfer;
  BenchCollectivesOptions bench_collectives;
  CoordinatorOptions coordinator;
  WorkerOptions worker;
  MockWorkerOptions mock;
  int64_t mock_step_us = 0;
  int exit_code = kExitOk;
};

void add_cluster_commands(CLI::App& app, Commands& c) {
  auto* serve = app.add_subcommand("serve", "start a cluster on this machine and serve it over HTTP");
  serve->add_option("MODEL", c.serve.model, "GGUF file or Hugging Face directory; default: the manifest's");
  serve->add_option("-f,--file", c.serve.manifest,
                    "cluster manifest; default: one prefill and one decode worker");
  serve->add_option("--port", c.serve.port, "HTTP port; 0 takes a free one")->check(CLI::Range(0, 65535));
  serve->add_option("--api-keys", c.serve.api_keys, "file of keys that open it, as `baton key` writes it");
  serve->add_flag("--detach", c.serve.detach, "return when the cluster is ready (0) or failed (3)");
  serve->callback([&c] { c.exit_code = run_serve(c.serve); });

  auto* key = app.add_subcommand("key", "make an API key: prints it, and adds its hash to a file of keys");
  key->add_option("FILE", c.key.file, "the file of keys: gateway.apiKeysFile of a manifest")->required();
  key->add_option("TENANT", c.key.tenant, "whose key it is: 63 letters, digits, '-', '_', '.' at most")
      ->required();
  key->add_flag("--operator", c.key.is_operator, "also opens /metrics and /admin/v1");
  key->add_flag("--stdin", c.key.from_stdin, "take the key from standard input instead of making one");
  key->callback([&c] { c.exit_code = run_key(c.key); });

  app.add_subcommand("down", "stop the cluster")->callback([&c] { c.exit_code = run_down(); });

  auto* validate = app.add_subcommand("validate", "check a cluster manifest");
  validate->add_option("FILE", c.manifest, "the manifest")->required();
  validate->callback([&c] { c.exit_code = run_validate(c.manifest); });
}

void add_tune(CLI::App& app, Commands& c) {
  auto* tune = app.add_subcommand(
      "tune", "choose cuBLASLt's algorithms for numerics: invariant on this machine's GPU; takes minutes");
  tune->add_option("-m,--model", c.tune.model,
                   "GGUF file or Hugging Face directory; default: the cached one");
  tune->add_option("-o,--output", c.tune.file, "the file that `algorithms` of a pool names")->required();
  tune->add_option("--device", c.tune.device, "cuda, cuda:1, cuda:GPU-<uuid>, cuda:MIG-<uuid>");
  tune->add_option("--rows", c.tune.rows, "of the largest step: the pool's batch.tokens")
      ->check(CLI::Range(16, 65536));
  tune->add_option("--tensor", c.tune.tensor, "the pool's parallel.tensor")->check(CLI::Range(1, 32));
  tune->callback([&c] { c.exit_code = run_tune(c.tune); });
}

void add_format_option(CLI::App& command, bool& json) {
  command
      .add_option_function<std::string>(
          "-o,--output", [&json](const std::string& format) { json = format == "json"; },
          "wide (table) or json")
      ->check(CLI::IsMember({"wide", "table", "json"}));
}

void add_inspect_commands(CLI::App& app, Commands& c) {
  auto* ps = app.add_subcommand("ps", "processes of the cluster: role, health, KV use");
  ps->add_option("--url", c.ps.url, "http://host:port of a coordinator; default: this home's cluster");
  add_format_option(*ps, c.ps.json);
  ps->callback([&c] { c.exit_code = run_ps(c.ps); });

  auto* logs = app.add_subcommand("logs", "the last log lines of the cluster's processes");
  logs->add_option("PROCESS", c.logs.process, "name as in ps; default: all");
  logs->add_option("-n,--lines", c.logs.lines, "how many of each")->check(CLI::Range(1, 100000));
  logs->callback([&c] { c.exit_code = run_logs(c.logs); });

  app.add_subcommand("version", "print the version")->callback([] { std::printf("baton %s\n", kVersion); });
}

void add_bench_engine(CLI::App& bench, Commands& c) {
  BenchEngineOptions& o = c.bench_engine;
  auto* engine = bench.add_subcommand(
      "engine", "steps of the engine without scheduler and network, as ratios to the machine's ceilings");
  engine->add_option("-m,--model", o.model, "GGUF file or Hugging Face directory; default: the cached one");
  const auto list = [engine](const char* names, std::vector<int>& values, const char* text, int least) {
    engine->add_option(names, values, text)->delimiter(',')->check(CLI::Range(least, 1'000'000));
  };
  list("-p,--prompt-tokens", o.prompt_tokens, "prefill of so many tokens; 0: none", 0);
  list("-n,--output-tokens", o.output_tokens, "decode of so many tokens; 0: none", 0);
  list("-b,--batch", o.batches, "sequences that decode at once", 1);
  list("-d,--depth", o.depths, "positions computed before", 0);
  list("-t,--threads", o.threads, "default: every core", 1);
  engine->add_option("-r,--repetitions", o.repetitions, "of each row; the median is printed")
      ->check(CLI::Range(1, 10000));
  engine->add_option("--chunk", o.chunk, "rows of the largest step (a worker's maxBatchTokens)")
      ->check(CLI::Range(1, 65536));
  engine->add_option("--kv-type", o.kv_type, "f32, bf16, f16, int8")
      ->check(CLI::IsMember({"f32", "bf16", "f16", "int8"}));
  engine->add_option("--numerics", o.numerics, "f32, bf16dot")->check(CLI::IsMember({"f32", "bf16dot"}));
  engine->add_option("--isa", o.isa, "tests only: scalar, avx2, avx512")->group("");
  engine
      ->add_option_function<std::string>(
          "-o,--output", [&o](const std::string& format) { o.json = format == "json"; }, "table or json")
      ->check(CLI::IsMember({"table", "json"}));
  engine->callback([&c] { c.exit_code = run_bench_engine(c.bench_engine); });
}

void add_bench_transfer(CLI::App& bench, Commands& c) {
  BenchTransferOptions& o = c.bench_transfer;
  auto* transfer =
      bench.add_subcommand("transfer", "KV pieces between two processes, against memcpy and a raw socket");
  transfer->add_option("--lanes", o.lanes, "of local, socket, socket-tls, am, get, get-emulated")
      ->delimiter(',');
  transfer->add_option("--pieces", o.pieces, "sizes in bytes")->delimiter(',');
  const auto megabytes = [transfer](const char* name, uint64_t& bytes, const char* text) {
    transfer->add_option_function<uint64_t>(
                name, [&bytes](uint64_t n) { bytes = n << 20; }, text)
        ->check(CLI::Range(1, 1 << 20));
  };
  megabytes("--pool-mib", o.pool_bytes, "memory of each process; 512");
  megabytes("--total-mib", o.total_bytes, "moved per measurement; 512");
  const auto host = [transfer](const char* name, BenchHost& host, const char* text) {
    transfer
        ->add_option_function<std::string>(
            name,
            [&host](const std::string& said) {
              host = {.network = said.substr(0, said.rfind('=')),
                      .address = said.substr(said.rfind('=') + 1)};
            },
            text)
        ->check([](const std::string& said) {
          const size_t at = said.rfind('=');
          return at != said.npos && at > 0 ? std::string() : "want NAMESPACE=ADDRESS, got " + said;
        });
  };
  host("--sender", o.sender,
       "network namespace and numeric address in it, a=10.0.0.1: a host of its own; root");
  host("--receiver", o.receiver, "the same for the receiving process");
  auto* serve = transfer->add_option(
      "--serve", o.serve, "receive for another machine that measures with --to: numeric address and port");
  transfer->add_option("--to", o.to, "the receiving process is on another machine, where --serve runs")
      ->excludes(serve);
  transfer
      ->add_flag("--insecure-allow-plaintext-off-loopback", o.insecure_plaintext,
                 "of --serve: its network is private")
      ->needs(serve);
  transfer->add_option("-r,--repetitions", o.repetitions, "the median is printed")
      ->check(CLI::Range(1, 1000));
  transfer
      ->add_option_function<std::string>(
          "-o,--output", [&o](const std::string& format) { o.json = format == "json"; }, "table or json")
      ->check(CLI::IsMember({"table", "json"}));
  transfer->callback([&c] { c.exit_code = run_bench_transfer(c.bench_transfer); });
}

void add_bench_collectives(CLI::App& bench, Commands& c) {
  BenchCollectivesOptions& o = c.bench_collectives;
  auto* collectives = bench.add_subcommand(
      "collectives", "all-reduce and friends between ranks that are processes, against raw stores and loads");
  collectives->add_option("-r,--ranks", o.ranks, "sizes of groups")->delimiter(',')->check(CLI::Range(2, 63));
  collectives->add_option("--bytes", o.bytes, "of one rank")->delimiter(',')->check(CLI::Range(4, 1 << 28));
  collectives->add_option("--lanes", o.lanes, "shm, socket, socket-tls")
      ->delimiter(',')
      ->check(CLI::IsMember({"shm", "socket", "socket-tls"}));
  collectives->add_option("-n,--calls", o.calls, "of a row, at most")->check(CLI::Range(20, 10'000'000));
  collectives
      ->add_option_function<std::string>(
          "-o,--output", [&o](const std::string& format) { o.json = format == "json"; }, "table or json")
      ->check(CLI::IsMember({"table", "json"}));
  collectives->callback([&c] { c.exit_code = run_bench_collectives(c.bench_collectives); });
}

void add_client_commands(CLI::App& app, Commands& c) {
  auto* chat = app.add_subcommand("chat", "talk to the running cluster in the terminal");
  chat->add_option("--url", c.chat.url, "http://host:port; default: this home's cluster");
  chat->add_option("--system", c.chat.system, "system message");
  chat->add_option("--temperature", c.chat.temperature, "0 takes the likeliest token")
      ->check(CLI::Range(0.0, 2.0));
  chat->add_option("--max-tokens", c.chat.max_tokens, "longest answer")->check(CLI::Range(1, 1000000));
  chat->callback([&c] { c.exit_code = run_chat(c.chat); });
}

void add_bench_commands(CLI::App& app, Commands& c) {
  auto* bench = app.add_subcommand("bench", "measure")->require_subcommand(1);
  auto* serve =
      bench->add_subcommand("serve", "closed loop against a running cluster: TTFT, ITL, tokens per second");
  serve->add_option("--url", c.bench.url, "http://host:port; default: this home's cluster");
  serve->add_option("-c,--clients", c.bench.clients, "requests at a time")->check(CLI::Range(1, 1024));
  serve->add_option("-r,--requests", c.bench.requests, "requests in all")->check(CLI::Range(1, 10000000));
  serve->add_option("-p,--prompt-tokens", c.bench.prompt_tokens, "prompt length")
      ->check(CLI::Range(1, 1000000));
  serve->add_option("-n,--output-tokens", c.bench.output_tokens, "output length")
      ->check(CLI::Range(1, 1000000));
  serve->add_option("--seed", c.bench.seed, "of the prompts");
  serve->add_option("--scenario", c.bench.scenarios,
                    "instead of one loop: S1 to S7, G, idle, as S1..S3,G or all (benchmarks/load/README.md)");
  serve->add_option("--scale", c.bench.scale, "share of the scenarios' requests")
      ->check(CLI::Range(0.0, 1.0));
  serve->add_option("-m,--model", c.bench.model, "model of scenario G; default: the cluster's");
  add_format_option(*serve, c.bench.json);
  serve->callback([&c] {
    c.exit_code = c.bench.scenarios.empty() ? run_bench_serve(c.bench) : run_bench_scenarios(c.bench);
  });
  add_bench_engine(*bench, c);
  add_bench_transfer(*bench, c);
  add_bench_collectives(*bench, c);
}

void add_process_commands(CLI::App& app, Commands& c) {
  constexpr const char* kLogDir = "log to a file named after the process there; default: stderr";
  auto* coordinator = app.add_subcommand("coordinator", "gateway, router and membership (started by serve)");
  coordinator->add_option("--manifest", c.coordinator.manifest)->required();
  coordinator->add_option("--http", c.coordinator.http, "host:port instead of the manifest's");
  coordinator->add_option("--membership", c.coordinator.membership,
                          "host:port for workers to join at; default: control.listen");
  coordinator->add_option("--report-fd", c.coordinator.report_fd, "write the addresses there");
  coordinator->add_option("--log-dir", c.coordinator.log_dir, kLogDir);
  coordinator->callback([&c] { c.exit_code = run_coordinator(c.coordinator); });

  auto* worker = app.add_subcommand("worker", "one worker process (started by serve)");
  worker->add_option("--manifest", c.worker.manifest)->required();
  worker->add_option("--pool", c.worker.pool, "pool of the manifest")->required();
  worker->add_option("--index", c.worker.index, "number in its pool")->check(CLI::Range(0, 63));
  worker->add_option("--join", c.worker.join,
                     "host:port of the coordinator's membership service; default: control.join or "
                     "control.listen of the manifest; rank 0 joins");
  worker->add_option("--listen", c.worker.listen,
                     "ADDRESS[:PORT] for the coordinator; default: pool's network.control, else where the "
                     "route to the coordinator starts");
  worker->add_option("--data", c.worker.data,
                     "ADDRESS[:PORT] for KV; default: network.data, else as --listen");
  worker->add_option("--metrics", c.worker.metrics,
                     "ADDRESS[:PORT] for /metrics, /live, /ready; default: network.metrics, else loopback");
  worker->add_option("--advertise", c.worker.advertise,
                     "host that the coordinator connects to, when it is not the one listened on");
  worker
      ->add_option("--rank", c.worker.rank, "of a worker of several; default: LWS_*, SLURM_*, OMPI_*, PMI_*")
      ->check(CLI::Range(0, 62));
  worker->add_option("--rendezvous", c.worker.rendezvous, "where rank 0 listens: host:port, or unix:@name");
  worker
      ->add_option("--stage-layers", c.worker.stage_layers,
                   "layers of each stage of parallel.pipeline, the same on all ranks; default: "
                   "parallel.stageLayers, else measured")
      ->delimiter(',')
      ->check(CLI::Range(1, 65536));
  worker->add_option("--threads", c.worker.threads)->check(CLI::Range(1, 1024));
  worker->add_option("--cpus", c.worker.cpus, "pin threads to these cores")->delimiter(',');
  worker->add_option("--log-dir", c.worker.log_dir, kLogDir);
  worker->add_option("--report-fd", c.worker.report_fd,
                     "say there when it has loaded and when it has joined");
  worker->callback([&c] { c.exit_code = run_worker(c.worker); });

  auto* mock = app.add_subcommand("bench-mock-worker", "an engine that computes nothing")->group("");
  mock->add_option("--manifest", c.mock.manifest)->required();
  mock->add_option("--join", c.mock.join)->required();
  mock->add_option("--step-us", c.mock_step_us);
  mock->callback([&c] {
    c.mock.step = std::chrono::microseconds(c.mock_step_us);
    c.exit_code = run_mock_worker(c.mock);
  });
}

// Whoever starts this with one of them closed would find a lock or a pipe of ours in its place.
void keep_standard_descriptors() {
  int fd = 0;
  while (fd >= 0 && fd <= STDERR_FILENO) fd = ::open("/dev/null", O_RDWR);
  if (fd > STDERR_FILENO) ::close(fd);
}

}  // namespace

int main(int argc, char** argv) {
  keep_standard_descriptors();
  CLI::App app("Baton serves language models with prefill and decode on separate workers.", "baton");
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string("baton ") + kVersion);
  Commands commands;
  add_cluster_commands(app, commands);
  add_tune(app, commands);
  add_inspect_commands(app, commands);
  add_client_commands(app, commands);
  add_bench_commands(app, commands);
  add_process_commands(app, commands);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {  // CLI11 reports bad usage, --help too, by throwing
    const bool no_command = error.get_exit_code() == static_cast<int>(CLI::ExitCodes::RequiredError) &&
                            app.get_subcommands().empty();
    if (!no_command) return app.exit(error) == 0 ? kExitOk : kExitUsage;
    std::fprintf(stderr, "baton: %s%s; baton --help lists the commands\n",
                 argc > 1 ? "there is no command " : "name a command", argc > 1 ? argv[1] : "");
    return kExitUsage;
  }
  return commands.exit_code;
}
