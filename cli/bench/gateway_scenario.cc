#include "cli/bench/gateway_scenario.h"

#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <thread>

#include "base/cat.h"
#include "cli/bench/bench_commands.h"
#include "cli/bench/server_words.h"
#include "cli/cluster/child_process.h"
#include "cli/cluster/home.h"
#include "cli/cluster/http_client.h"
#include "cli/cluster/manifest.h"

namespace baton::cli {
namespace {

namespace json = boost::json;
using load::LoadGroup;
using std::chrono::microseconds;
using std::chrono::seconds;

constexpr int kIn = 128, kOut = 64;
constexpr auto kPacedStep = microseconds(5000);

std::vector<int> usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> out;
  if (::sched_getaffinity(0, sizeof set, &set) != 0) return out;
  for (int i = 0; i < CPU_SETSIZE; ++i)
    if (CPU_ISSET(i, &set)) out.push_back(i);
  return out;
}

// Keeps this process on one core for the life of the object.
class PinnedHere {
 public:
  explicit PinnedHere(int cpu) {
    CPU_ZERO(&before_);
    ::sched_getaffinity(0, sizeof before_, &before_);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    ::sched_setaffinity(0, sizeof one, &one);
  }
  ~PinnedHere() { ::sched_setaffinity(0, sizeof before_, &before_); }
  PinnedHere(const PinnedHere&) = delete;
  PinnedHere& operator=(const PinnedHere&) = delete;

 private:
  cpu_set_t before_;
};

// A coordinator and a mock worker in a home of their own; both end with the object.
class MockCluster {
 public:
  MockCluster() = default;
  ~MockCluster() {
    for (const int pid : {worker_, coordinator_.pid}) {
      if (pid <= 0) continue;
      ::kill(pid, SIGTERM);
      ::waitpid(pid, nullptr, 0);
    }
    std::error_code ignored;
    if (!home_.empty()) std::filesystem::remove_all(home_, ignored);
  }
  MockCluster(const MockCluster&) = delete;
  MockCluster& operator=(const MockCluster&) = delete;

  absl::Status start(const std::string& model, Duration step, const std::vector<int>& cores);
  const std::string& address() const { return coordinator_.http; }
  std::vector<load::MeteredProcess> processes() const {
    return {{"coordinator", "coordinator", coordinator_.pid}, {"mock-0", "mock", worker_}};
  }

 private:
  absl::Status wait_until_ready() const;
  std::string home_;
  CoordinatorReport coordinator_;
  int worker_ = 0;
};

absl::Status MockCluster::start(const std::string& model, Duration step, const std::vector<int>& cores) {
  std::string name = (std::filesystem::temp_directory_path() / "baton-bench-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) return absl::UnavailableError(cat(name, ": cannot be made"));
  home_ = name;
  std::filesystem::create_directories(home_ + "/state/logs");
  ClusterManifest manifest;
  manifest.name = kMockCluster;
  manifest.model_source = model;
  manifest.gateway.port = 0;
  manifest.pools.push_back({.name = "mock"});
  const std::string file = home_ + "/manifest.yaml";
  RETURN_IF_ERROR(write_file(file, to_yaml(manifest)));
  ChildProcess child{.arguments = {"coordinator", "--manifest", file, "--log-dir", home_ + "/state/logs"},
                     .output_file = home_ + "/coordinator.err",
                     .environment = {{"BATON_HOME", home_}}};
  if (!cores.empty()) child.cpus = {cores.front()};
  ASSIGN_OR_RETURN(coordinator_, start_coordinator(child, seconds(20)));
  child.arguments = {"bench-mock-worker",
                     "--manifest",
                     file,
                     "--join",
                     coordinator_.membership,
                     "--step-us",
                     std::to_string(std::chrono::duration_cast<microseconds>(step).count())};
  child.output_file = home_ + "/mock.err";
  if (!cores.empty()) child.cpus = {cores.back()};
  ASSIGN_OR_RETURN(worker_, start_child(child));
  return wait_until_ready();
}

absl::Status MockCluster::wait_until_ready() const {
  HttpClient client(coordinator_.http, seconds(2));
  for (int i = 0; i < 1000; ++i) {
    if (const auto reply = client.get("/ready"); reply.ok() && reply->status == 200) return absl::OkStatus();
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return absl::UnavailableError(cat("the mock worker did not join: ", last_words(home_ + "/mock.err")));
}

// Has the model a chat template? Without one, completions are measured.
bool can_chat(const std::string& address) {
  const auto reply =
      HttpClient(address, seconds(10)).post("/tokenize", R"({"messages":[{"role":"user","content":"Hi"}]})");
  return reply.ok() && reply->status == 200;
}

// One round of requests against a mock cluster.
class GatewayLoad {
 public:
  GatewayLoad(const MockCluster& cluster, const load::WordPrompts& prompts, uint64_t seed)
      : cluster_(cluster),
        prompts_(prompts),
        seed_(seed),
        chat_(can_chat(cluster.address())),
        meter_(cluster.processes()) {}

  const char* path() const { return chat_ ? "/v1/chat/completions" : "/v1/completions"; }

  absl::StatusOr<Phase> closed_loop(const std::string& name, int at_once, int count, bool keep_alive = true) {
    ASSIGN_OR_RETURN(auto client, load::StreamClient::make(cluster_.address(), seconds(60)));
    return phase_of(load::run_load(*client, meter_, {group(name, at_once, count, keep_alive)}), 0);
  }

  // Times of the second requests of `count` connections.
  absl::StatusOr<Phase> second_requests(int count) {
    Phase out;
    out.name = "second request of a connection";
    for (int i = 0; i < count; ++i) {
      ASSIGN_OR_RETURN(auto client, load::StreamClient::make(cluster_.address(), seconds(60)));
      const auto result = load::run_load(*client, meter_, {group("", 1, 2, true)});
      for (const load::StreamRecord& stream : result.groups[0].streams)
        if (!stream.error.empty() || &stream == &result.groups[0].streams.back()) out.samples.add(stream);
      out.seconds += to_seconds(result.wall);
      out.usage = result.usage;
    }
    return out;
  }

 private:
  LoadGroup group(const std::string& name, int at_once, int count, bool keep_alive) {
    LoadGroup g{.name = name, .arrivals = {.count = count, .at_once = at_once}, .requests = {}};
    for (int i = 0; i < count; ++i) {
      const std::string text = prompts_.text((seed_ << 32) + made_++, kIn);
      json::object body{{"model", "default"}, {"max_tokens", kOut},
                        {"temperature", 0},   {"ignore_eos", true},
                        {"stream", true},     {"stream_options", {{"include_usage", true}}}};
      if (chat_) {
        body["messages"] = json::array{json::object{{"role", "user"}, {"content", text}}};
      } else {
        body["prompt"] = text;
      }
      g.requests.push_back(
          {.path = path(), .body = json::serialize(body), .keep_alive = keep_alive, .output_tokens = kOut});
    }
    return g;
  }

  const MockCluster& cluster_;
  const load::WordPrompts& prompts_;
  const uint64_t seed_;
  const bool chat_;
  load::ProcessMeter meter_;
  uint64_t made_ = 0;
};

double gateway_ms(const Phase& phase) {
  return phase.samples.requests > 0 ? phase.usage.processes[0].cpu_seconds * 1e3 / phase.samples.requests : 0;
}

// TTFT less the time that the engine says it took.
double added_ms(const Phase& phase) {
  const auto stage = [&](const char* name) {
    const auto it = phase.samples.stage_ms.find(name);
    return it == phase.samples.stage_ms.end() ? 0 : load::median(it->second);
  };
  return load::median(phase.samples.ttft_ms) - stage("worker_queue_ms") - stage("prefill_ms");
}

// With steps that take no time, as the other gateways were measured.
absl::Status measure_unpaced(const GatewayScenarioOptions& o, const std::vector<int>& cores,
                             ScenarioResult& out) {
  MockCluster cluster;
  RETURN_IF_ERROR(cluster.start(o.model, Duration::zero(), cores));
  ASSIGN_OR_RETURN(const load::WordPrompts prompts, server_words({.address = cluster.address()}));
  GatewayLoad load(cluster, prompts, o.seed);
  out.settings["path"] = load.path();
  RETURN_IF_ERROR(load.closed_loop("warm", 4, scaled(100, o.scale, 8)).status());
  ASSIGN_OR_RETURN(Phase loaded, load.closed_loop("16 at once", 16, scaled(2000, o.scale, 16)));
  ASSIGN_OR_RETURN(Phase one, load.closed_loop("one at a time", 1, scaled(500, o.scale, 4)));
  ASSIGN_OR_RETURN(Phase fresh, load.closed_loop("new connections", 1, scaled(200, o.scale, 4), false));
  ASSIGN_OR_RETURN(Phase second, load.second_requests(scaled(40, o.scale, 3)));
  out.summary = {{"cpu_ms_per_request_loaded", gateway_ms(loaded)},
                 {"requests_per_s_loaded", loaded.samples.requests / loaded.seconds},
                 {"cpu_ms_per_request_alone", gateway_ms(one)},
                 {"ttft_p50_ms", load::median(one.samples.ttft_ms)},
                 {"added_ttft_ms", added_ms(one)},
                 {"new_connection_ttft_p50_ms", load::median(fresh.samples.ttft_ms)},
                 {"second_request_ttft_p50_ms", load::median(second.samples.ttft_ms)},
                 {"second_request_ttft_max_ms", load::spread(second.samples.ttft_ms).max}};
  out.phases = {std::move(loaded), std::move(one), std::move(fresh), std::move(second)};
  return absl::OkStatus();
}

// With steps as long as a real engine's: every token is a message of its own.
absl::Status measure_paced(const GatewayScenarioOptions& o, const std::vector<int>& cores,
                           ScenarioResult& out) {
  MockCluster cluster;
  RETURN_IF_ERROR(cluster.start(o.model, kPacedStep, cores));
  ASSIGN_OR_RETURN(const load::WordPrompts prompts, server_words({.address = cluster.address()}));
  GatewayLoad load(cluster, prompts, o.seed);
  ASSIGN_OR_RETURN(Phase paced, load.closed_loop("32 at once, 5 ms steps", 32, scaled(256, o.scale, 8)));
  out.summary["cpu_ms_per_request_paced"] = gateway_ms(paced);
  out.phases.push_back(std::move(paced));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ScenarioResult> run_gateway_scenario(const GatewayScenarioOptions& options) {
  const std::vector<int> cores = usable_cores();
  std::optional<PinnedHere> pinned;
  if (cores.size() > 1) pinned.emplace(cores.back());
  ScenarioResult out;
  out.name = "G";
  out.what = cat(kIn, " words, ", kOut, " tokens, an engine that computes nothing, gateway on ",
                 cores.size() > 1 ? "a core of its own" : "the only core");
  out.settings = {
      {"words", kIn}, {"out", kOut}, {"step_us", 0}, {"paced_step_us", 5000}, {"own_core", cores.size() > 1}};
  RETURN_IF_ERROR(measure_unpaced(options, cores, out));
  RETURN_IF_ERROR(measure_paced(options, cores, out));
  return out;
}

}  // namespace baton::cli
