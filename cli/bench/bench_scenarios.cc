// bench serve --scenario: the scenarios one after the other, and what they gave.
#include <boost/json.hpp>
#include <cstdio>
#include <optional>

#include "base/cat.h"
#include "cli/bench/bench_commands.h"
#include "cli/bench/gateway_scenario.h"
#include "cli/bench/scenario_report.h"
#include "cli/bench/scenarios.h"
#include "cli/bench/server_words.h"
#include "cli/cluster/home.h"
#include "cli/cluster/manifest.h"

namespace baton::cli {
namespace {

namespace json = boost::json;
constexpr auto kStreamLimit = std::chrono::seconds(180);

int complain(const absl::Status& status) {
  std::fprintf(stderr, "baton: %s\n", std::string(status.message()).c_str());
  return kExitFailed;
}

// The processes behind `address`; none when it is not this home's cluster.
std::vector<load::MeteredProcess> processes_of(const std::string& address) {
  std::vector<load::MeteredProcess> out;
  const auto record = ClusterRecord::read(Home::from_environment());
  if (!record.ok() || record->http_address != address) return out;
  for (const ProcessRecord& p : record->processes) out.push_back({p.name, p.role, p.pid});
  return out;
}

// The parts of a ScenarioWorld, made when the first scenario needs them. Thread: main.
class ServedScenarios {
 public:
  absl::StatusOr<ScenarioResult> run(const std::string& name, const BenchServeOptions& options) {
    if (!world_) RETURN_IF_ERROR(connect(options));
    return run_scenario(name, *world_);
  }

 private:
  absl::Status connect(const BenchServeOptions& options) {
    ASSIGN_OR_RETURN(const ServerPlace server, server_place(options.url));
    if (server.tls)
      return absl::InvalidArgumentError(cat(server.url(), ": scenarios are measured without TLS"));
    ASSIGN_OR_RETURN(client_, load::StreamClient::make(server.address, kStreamLimit, server.key));
    ASSIGN_OR_RETURN(prompts_, server_words(server));
    meter_ = load::ProcessMeter(processes_of(server.address));
    const auto now = std::chrono::system_clock::now().time_since_epoch().count();
    ScenarioWorld world{.client = *client_,
                        .meter = meter_,
                        .prompts = prompts_,
                        .seed = options.seed,
                        .scale = options.scale,
                        .salt = cat("bench-", now)};
    RETURN_IF_ERROR(warm_up(world));
    world_.emplace(std::move(world));
    return absl::OkStatus();
  }

  std::unique_ptr<load::StreamClient> client_;
  load::WordPrompts prompts_{{}, 0};
  load::ProcessMeter meter_{{}};
  std::optional<ScenarioWorld> world_;
};

// The model of G: named, the running cluster's, or the default one.
absl::StatusOr<std::string> gateway_model(const BenchServeOptions& options) {
  const Home home = Home::from_environment();
  if (options.model.empty() && ClusterRecord::read(home).ok())
    if (const auto manifest = read_manifest(home.file("manifest.yaml")); manifest.ok())
      return manifest->model_source;
  return resolve_model(home, options.model.empty() ? "default" : options.model);
}

absl::StatusOr<ScenarioResult> run_one(const std::string& name, const BenchServeOptions& options,
                                       ServedScenarios& served) {
  if (name == "G") {
    ASSIGN_OR_RETURN(const std::string model, gateway_model(options));
    return run_gateway_scenario({.model = model, .seed = options.seed, .scale = options.scale});
  }
  return served.run(name, options);
}

}  // namespace

int run_bench_scenarios(const BenchServeOptions& options) {
  const auto names = parse_scenarios(options.scenarios);
  if (!names.ok()) {
    complain(names.status());
    return kExitUsage;
  }
  ServedScenarios served;
  json::array results;
  int failed = 0;
  for (const std::string& name : *names) {
    if (options.json) std::fprintf(stderr, "%s\n", name.c_str());
    const auto result = run_one(name, options, served);
    if (!result.ok()) return complain(result.status());
    failed += result->failed();
    if (options.json) {
      results.push_back(scenario_json(*result));
    } else {
      std::printf("%s\n", scenario_table(*result).c_str());
      std::fflush(stdout);
    }
  }
  if (options.json) {
    const json::object out{{"machine", machine_json()},
                           {"seed", options.seed},
                           {"scale", options.scale},
                           {"scenarios", std::move(results)}};
    std::printf("%s\n", json::serialize(out).c_str());
  }
  if (failed == 0) return kExitOk;
  std::fprintf(stderr, "baton: %d requests failed\n", failed);
  return kExitFailed;
}

}  // namespace baton::cli
