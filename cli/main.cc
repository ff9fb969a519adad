// The one binary. Picks the command; what each does stands in the file of its name (serve.cc,
// worker_process.cc, ...).
#include <CLI/CLI.hpp>
#include <cstdio>

#include "cli/commands.h"
#include "cli/version.h"

using namespace baton::cli;

int main(int argc, char** argv) {
  CLI::App app("Baton serves language models with prefill and decode on separate workers.", "baton");
  app.require_subcommand(1);
  app.set_help_flag("-h,--help", "what the command does and its options");
  int exit_code = kExitOk;

  ServeOptions serve;
  auto* serve_command = app.add_subcommand("serve", "start a cluster on this machine and serve it over HTTP");
  serve_command->add_option("MODEL", serve.model,
                            "GGUF file or Hugging Face directory; default: the manifest's");
  serve_command->add_option("-f,--file", serve.manifest,
                            "cluster manifest; default: one prefill and one decode worker");
  serve_command->add_option("--port", serve.port, "HTTP port; 0 takes a free one")
      ->check(CLI::Range(0, 65535));
  serve_command->add_flag("--detach", serve.detach, "return when the cluster is ready (0) or failed (3)");
  serve_command->callback([&] { exit_code = run_serve(serve); });

  app.add_subcommand("down", "stop the cluster")->callback([&] { exit_code = run_down(); });

  PsOptions ps;
  auto* ps_command = app.add_subcommand("ps", "processes of the cluster: role, health, KV use");
  ps_command
      ->add_option_function<std::string>(
          "-o,--output", [&](const std::string& format) { ps.json = format == "json"; }, "wide or json")
      ->check(CLI::IsMember({"wide", "json"}));
  ps_command->callback([&] { exit_code = run_ps(ps); });

  LogsOptions logs;
  auto* logs_command = app.add_subcommand("logs", "the last log lines of the cluster's processes");
  logs_command->add_option("PROCESS", logs.process, "name as in ps; default: all");
  logs_command->add_option("-n,--lines", logs.lines, "how many of each")->check(CLI::Range(1, 100000));
  logs_command->callback([&] { exit_code = run_logs(logs); });

  std::string manifest;
  auto* validate_command = app.add_subcommand("validate", "check a cluster manifest");
  validate_command->add_option("FILE", manifest, "the manifest")->required();
  validate_command->callback([&] { exit_code = run_validate(manifest); });

  ChatOptions chat;
  auto* chat_command = app.add_subcommand("chat", "talk to the running cluster in the terminal");
  chat_command->add_option("--url", chat.url, "host:port; default: this home's cluster");
  chat_command->add_option("--system", chat.system, "system message");
  chat_command->add_option("--temperature", chat.temperature, "0 takes the likeliest token")
      ->check(CLI::Range(0.0, 2.0));
  chat_command->add_option("--max-tokens", chat.max_tokens, "longest answer")->check(CLI::Range(1, 1000000));
  chat_command->callback([&] { exit_code = run_chat(chat); });

  BenchServeOptions bench;
  auto* bench_command = app.add_subcommand("bench", "measure")->require_subcommand(1);
  auto* bench_serve = bench_command->add_subcommand(
      "serve", "closed loop against a running cluster: TTFT, ITL, tokens per second");
  bench_serve->add_option("--url", bench.url, "host:port; default: this home's cluster");
  bench_serve->add_option("-c,--clients", bench.clients, "requests at a time")->check(CLI::Range(1, 1024));
  bench_serve->add_option("-r,--requests", bench.requests, "requests in all")->check(CLI::Range(1, 10000000));
  bench_serve->add_option("-p,--prompt-tokens", bench.prompt_tokens, "prompt length")
      ->check(CLI::Range(1, 1000000));
  bench_serve->add_option("-n,--output-tokens", bench.output_tokens, "output length")
      ->check(CLI::Range(1, 1000000));
  bench_serve->add_option("--seed", bench.seed, "of the prompts");
  bench_serve
      ->add_option_function<std::string>(
          "-o,--output", [&](const std::string& format) { bench.json = format == "json"; }, "wide or json")
      ->check(CLI::IsMember({"wide", "json"}));
  bench_serve->callback([&] { exit_code = run_bench_serve(bench); });

  app.add_subcommand("version", "print the version")->callback([] { std::printf("baton %s\n", kVersion); });

  CoordinatorOptions coordinator;
  auto* coordinator_command =
      app.add_subcommand("coordinator", "gateway, router and membership (started by serve)");
  coordinator_command->add_option("--manifest", coordinator.manifest)->required();
  coordinator_command->add_option("--http", coordinator.http, "host:port instead of the manifest's");
  coordinator_command->add_option("--membership", coordinator.membership, "host:port for workers to join at");
  coordinator_command->add_option("--report-fd", coordinator.report_fd, "write the addresses there");
  coordinator_command->callback([&] { exit_code = run_coordinator(coordinator); });

  WorkerOptions worker;
  auto* worker_command = app.add_subcommand("worker", "one worker process (started by serve)");
  worker_command->add_option("--manifest", worker.manifest)->required();
  worker_command->add_option("--pool", worker.pool, "pool of the manifest")->required();
  worker_command->add_option("--index", worker.index, "number in its pool")->check(CLI::Range(0, 63));
  worker_command->add_option("--join", worker.join, "host:port of the coordinator's membership service")
      ->required();
  worker_command->add_option("--threads", worker.threads)->check(CLI::Range(1, 1024));
  worker_command->add_option("--cpus", worker.cpus, "pin threads to these cores")->delimiter(',');
  worker_command->callback([&] { exit_code = run_worker(worker); });

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {  // CLI11 reports bad usage, --help too, by throwing
    return app.exit(error) == 0 ? kExitOk : kExitUsage;
  }
  return exit_code;
}
