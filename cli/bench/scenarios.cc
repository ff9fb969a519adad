// S1 to S7: what is sent when, and which figures are read from it.
#include "cli/bench/scenarios.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <thread>

#include "base/cat.h"
#include "base/check.h"

namespace baton::cli {
namespace {

namespace json = boost::json;
using load::Arrivals;
using load::LoadGroup;
using load::LoadResult;
using load::StreamRequest;
using std::chrono::seconds;

constexpr int kStormDrop = 3;  // tokens after which S6 hangs up
constexpr auto kAfterStorm = seconds(2);

struct Shape {
  int in = 0;
  int out = 0;
};

std::string body_of(const ScenarioWorld& world, std::string prompt, int out) {
  return json::serialize(json::object{{"model", "default"},
                                      {"prompt", std::move(prompt)},
                                      {"max_tokens", out},
                                      {"temperature", 0},
                                      {"ignore_eos", true},
                                      {"cache_salt", world.salt},
                                      {"stream", true},
                                      {"stream_options", {{"include_usage", true}}}});
}

// `kind` keeps the prompts of scenarios and groups apart.
uint64_t prompt_seed(const ScenarioWorld& world, uint64_t kind, int number) {
  return (world.seed << 32) + (kind << 20) + static_cast<uint64_t>(number);
}

StreamRequest own_request(const ScenarioWorld& world, uint64_t kind, int number, Shape shape) {
  return {.body = body_of(world, world.prompts.text(prompt_seed(world, kind, number), shape.in), shape.out),
          .prompt_tokens = shape.in,
          .output_tokens = shape.out};
}

LoadGroup group_of(const ScenarioWorld& world, std::string name, uint64_t kind, Arrivals arrivals,
                   Shape shape) {
  LoadGroup group{.name = std::move(name), .arrivals = arrivals, .requests = {}};
  const int made = arrivals.endless() ? 64 : arrivals.count;
  for (int i = 0; i < made; ++i) group.requests.push_back(own_request(world, kind, i, shape));
  return group;
}

LoadResult run(ScenarioWorld& world, std::vector<LoadGroup> groups) {
  return load::run_load(world.client, world.meter, groups);
}

double tokens_per_second(const Phase& phase) {
  return phase.seconds > 0 ? static_cast<double>(phase.samples.output_tokens) / phase.seconds : 0;
}

// ---- S1, S2, S3: closed loops of one shape

ScenarioResult closed_loop(ScenarioWorld& world, uint64_t kind, int clients, int requests, Shape shape) {
  const int count = scaled(requests, world.scale, std::min(requests, 2));
  ScenarioResult out;
  out.what = cat("closed loop, ", clients, clients == 1 ? " client, " : " clients, ", count, " requests, ",
                 shape.in, " tokens in, ", shape.out, " out");
  out.settings = {{"clients", clients}, {"requests", count}, {"in", shape.in}, {"out", shape.out}};
  const LoadResult result =
      run(world, {group_of(world, "all", kind, {.count = count, .at_once = clients}, shape)});
  out.phases.push_back(phase_of(result, 0));
  const Phase& phase = out.phases.front();
  out.summary = {{"output_tok_s", tokens_per_second(phase)},
                 {"ttft_p50_ms", load::spread(phase.samples.ttft_ms).p50},
                 {"itl_p50_ms", load::spread(phase.samples.itl_ms).p50},
                 {"itl_p99_ms", load::spread(phase.samples.itl_ms).p99}};
  return out;
}

// ---- S4: streams alone, then beside long prompts that arrive whatever happens

ScenarioResult long_prompts(ScenarioWorld& world) {
  constexpr int kStreams = 4;
  constexpr Shape kStream{32, 256}, kLong{1500, 16};
  const int longs = scaled(10, world.scale);
  ScenarioResult out;
  out.what = cat(kStreams, " streams of ", kStream.out, " tokens; then the same while a prompt of ", kLong.in,
                 " arrives every 2 s, ", longs, " times");
  out.settings = {{"streams", kStreams}, {"in", kStream.in},      {"out", kStream.out},
                  {"long_in", kLong.in}, {"long_out", kLong.out}, {"long_prompts", longs},
                  {"period_s", 2}};
  const LoadResult alone = run(
      world, {group_of(world, "streams alone", 40, {.count = 2 * kStreams, .at_once = kStreams}, kStream)});
  const LoadResult with =
      run(world, {group_of(world, "streams beside long prompts", 41, {.at_once = kStreams}, kStream),
                  group_of(world, "long prompts", 42, {.count = longs, .period = seconds(2)}, kLong)});
  out.phases = {phase_of(with, 0), phase_of(with, 1), phase_of(alone, 0)};
  const load::Spread itl_alone = load::spread(out.phases[2].samples.itl_ms);
  const load::Spread itl = load::spread(out.phases[0].samples.itl_ms);
  const load::Spread ttft = load::spread(out.phases[1].samples.ttft_ms);
  out.summary = {{"itl_p99_ms", itl.p99},
                 {"itl_max_ms", itl.max},
                 {"itl_alone_p99_ms", itl_alone.p99},
                 {"itl_alone_max_ms", itl_alone.max},
                 {"streams_tok_s", tokens_per_second(out.phases[0])},
                 {"streams_alone_tok_s", tokens_per_second(out.phases[2])},
                 {"long_ttft_p50_ms", ttft.p50},
                 {"long_ttft_p95_ms", ttft.p95}};
  return out;
}

// ---- S5: a prefix that requests share

ScenarioResult shared_prefix(ScenarioWorld& world) {
  constexpr int kPrefix = 1000, kOwn = 32, kOut = 16, kTogether = 8;
  const int in_a_row = scaled(20, world.scale, 3);
  const auto group = [&](const char* name, int first, int count, int at_once) {
    LoadGroup g{.name = name, .arrivals = {.count = count, .at_once = at_once}, .requests = {}};
    for (int i = first; i < first + count; ++i)
      g.requests.push_back(
          {.body = body_of(
               world, world.prompts.text(prompt_seed(world, 50, 0), kPrefix, prompt_seed(world, 51, i), kOwn),
               kOut),
           .prompt_tokens = kPrefix + kOwn,
           .output_tokens = kOut});
    return g;
  };
  ScenarioResult out;
  out.what = cat("one prefix of ", kPrefix, " tokens and ", kOwn, " own ones, ", kOut, " out: ", in_a_row,
                 " in a row, then ", kTogether, " at once");
  out.settings = {
      {"prefix", kPrefix}, {"own", kOwn}, {"out", kOut}, {"in_a_row", in_a_row}, {"at_once", kTogether}};
  const LoadResult cold = run(world, {group("cold", 0, 1, 1)});
  const LoadResult warm = run(world, {group("warm", 1, in_a_row - 1, 1)});
  const LoadResult together = run(world, {group("at once", in_a_row, kTogether, kTogether)});
  out.phases = {phase_of(warm, 0), phase_of(cold, 0), phase_of(together, 0)};
  const load::Spread at_once = load::spread(out.phases[2].samples.ttft_ms);
  out.summary = {{"cold_ttft_ms", load::spread(out.phases[1].samples.ttft_ms).p50},
                 {"warm_ttft_p50_ms", load::spread(out.phases[0].samples.ttft_ms).p50},
                 {"at_once_ttft_mean_ms", at_once.mean},
                 {"at_once_ttft_max_ms", at_once.max}};
  return out;
}

// ---- S6: clients that hang up

Phase storm(ScenarioWorld& world, uint64_t kind, int requests) {
  LoadGroup group =
      group_of(world, "storm", kind, {.count = requests, .at_once = std::min(32, requests)}, {128, 128});
  for (StreamRequest& r : group.requests) {
    json::object body = json::parse(r.body).as_object();
    body["stream_options"].as_object()["continuous_usage_stats"] = true;  // an event may bring several tokens
    r.body = json::serialize(body);
    r.drop_after = kStormDrop;
  }
  return phase_of(run(world, {std::move(group)}), 0);
}

void append(Phase& all, const Phase& more) {
  const auto join = [](std::vector<double>& to, const std::vector<double>& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  join(all.samples.ttft_ms, more.samples.ttft_ms);
  join(all.samples.itl_ms, more.samples.itl_ms);
  join(all.samples.second_ms, more.samples.second_ms);
  all.samples.output_tokens += more.samples.output_tokens;
  all.samples.requests += more.samples.requests;
  all.samples.dropped += more.samples.dropped;
  all.samples.failed += more.samples.failed;
  if (all.samples.first_error.empty()) all.samples.first_error = more.samples.first_error;
  all.seconds += more.seconds;
}

ScenarioResult disconnects(ScenarioWorld& world) {
  constexpr Shape kShape{128, 16};
  const int requests = scaled(100, world.scale, 4), repeats = scaled(3, world.scale);
  ScenarioResult out;
  out.what = cat(requests, " requests, 32 at a time, each dropped after ", kStormDrop,
                 " tokens; then one request; ", repeats, " times");
  out.settings = {{"requests", requests},
                  {"at_once", 32},
                  {"in", kShape.in},
                  {"drop_after", kStormDrop},
                  {"repeats", repeats}};
  Phase idle = phase_of(run(world, {group_of(world, "idle", 60, {.count = 5, .at_once = 1}, kShape)}), 0);
  Phase storms, next;
  storms.name = "storm", next.name = "next";
  std::vector<double> rest_cpu;
  for (int i = 0; i < repeats; ++i) {
    const uint64_t kind = 61 + 2 * static_cast<uint64_t>(i);
    const Phase one = storm(world, kind, requests);
    append(storms, one);
    storms.usage = one.usage;
    append(next,
           phase_of(run(world, {group_of(world, "next", kind + 1, {.count = 1, .at_once = 1}, kShape)}), 0));
    world.meter.start();
    std::this_thread::sleep_for(kAfterStorm);
    rest_cpu.push_back(world.meter.stop().servers_cpu_seconds);
  }
  const double idle_ms = load::median(idle.samples.ttft_ms), next_ms = load::median(next.samples.ttft_ms);
  out.summary = {{"storm_s", storms.seconds / repeats},
                 {"idle_ttft_ms", idle_ms},
                 {"next_ttft_ms", next_ms},
                 {"next_over_idle", idle_ms > 0 ? next_ms / idle_ms : 0},
                 {"cpu_s_in_2_s_after", load::median(rest_cpu)}};
  out.phases = {std::move(storms), std::move(next), std::move(idle)};
  return out;
}

// ---- S7: the same question alone, again, and beside others

// The text of an answer: its token ids, in order, however they were cut into events.
std::string token_ids(const std::string& events) {
  std::string out;
  constexpr std::string_view kIds = "\"token_ids\":[";
  for (size_t at = events.find(kIds); at != std::string::npos; at = events.find(kIds, at)) {
    at += kIds.size();
    const size_t end = events.find(']', at);
    if (end > at) out += cat(std::string_view(events).substr(at, end - at), ",");
  }
  return out;
}

int differing(const load::GroupResult& a, const load::GroupResult& b) {
  int n = 0;
  for (size_t i = 0; i < a.streams.size(); ++i) {
    const std::string ids = token_ids(a.streams[i].events);
    n += ids.empty() || ids != token_ids(b.streams[i].events);
  }
  return n;
}

ScenarioResult exactness(ScenarioWorld& world) {
  constexpr Shape kShape{128, 64};
  const int prompts = scaled(16, world.scale, 4);
  const auto ask = [&](const char* name, int at_once) {
    LoadGroup g = group_of(world, name, 70, {.count = prompts, .at_once = at_once}, kShape);
    for (StreamRequest& r : g.requests) {
      json::object body = json::parse(r.body).as_object();
      body["return_token_ids"] = true;
      r.body = json::serialize(body);
      r.keep_events = true;
    }
    return run(world, {std::move(g)});
  };
  ScenarioResult out;
  out.what = cat(prompts, " prompts, ", kShape.out, " tokens: alone, alone again, all at once");
  out.settings = {{"prompts", prompts}, {"in", kShape.in}, {"out", kShape.out}};
  const LoadResult alone = ask("alone", 1), again = ask("again", 1), together = ask("at once", prompts);
  out.phases = {phase_of(alone, 0), phase_of(again, 0), phase_of(together, 0)};
  out.summary = {{"outputs", prompts},
                 {"differ_again", differing(alone.groups[0], again.groups[0])},
                 {"differ_at_once", differing(alone.groups[0], together.groups[0])}};
  return out;
}

// ---- idle: what a cluster costs that nobody asks

ScenarioResult idle(ScenarioWorld& world) {
  constexpr auto kSettle = seconds(1);
  const auto watched = std::chrono::milliseconds(scaled(5000, world.scale, 500));
  std::this_thread::sleep_for(kSettle);
  world.meter.start();
  std::this_thread::sleep_for(watched);
  ScenarioResult out;
  out.what = "nobody asks anything";
  out.settings = {{"seconds", to_seconds(watched)}};
  Phase phase{.name = "idle", .samples = {}, .seconds = 0, .usage = world.meter.stop()};
  phase.seconds = phase.usage.wall_seconds;
  double rss = 0;
  for (const load::ProcessUse& p : phase.usage.processes)
    if (p.process.role != "supervisor" && p.process.role != "coordinator")
      rss = std::max(rss, static_cast<double>(p.rss_bytes) / (1 << 20));
  out.summary = {{"cpu_cores", phase.usage.servers_cpu_seconds / phase.seconds}, {"worker_rss_mib", rss}};
  out.phases.push_back(std::move(phase));
  return out;
}

}  // namespace

int ScenarioResult::failed() const {
  int n = 0;
  for (const Phase& p : phases) n += p.samples.failed;
  return n;
}

int scaled(int full, double scale, int least) {
  return std::clamp(static_cast<int>(std::lround(full * scale)), std::min(least, full), full);
}

Phase phase_of(const LoadResult& run, size_t group) {
  Phase phase{
      .name = run.groups[group].name, .samples = {}, .seconds = to_seconds(run.wall), .usage = run.usage};
  for (const load::StreamRecord& stream : run.groups[group].streams) phase.samples.add(stream);
  return phase;
}

ScenarioResult run_scenario(const std::string& name, ScenarioWorld& world) {
  const auto make = [&]() -> ScenarioResult {
    if (name == "S1") return closed_loop(world, 10, 1, 8, {128, 128});
    if (name == "S2") return closed_loop(world, 20, 8, 40, {256, 64});
    if (name == "S3") return closed_loop(world, 30, 32, 96, {128, 128});
    if (name == "S4") return long_prompts(world);
    if (name == "S5") return shared_prefix(world);
    if (name == "S6") return disconnects(world);
    if (name == "S7") return exactness(world);
    BATON_CHECK(name == "idle");
    return idle(world);
  };
  ScenarioResult out = make();
  out.name = name;
  return out;
}

absl::Status warm_up(ScenarioWorld& world) {
  const Phase phase =
      phase_of(run(world, {group_of(world, "warm", 0, {.count = 1, .at_once = 1}, {64, 8})}), 0);
  return phase.samples.failed == 0 ? absl::OkStatus() : absl::UnavailableError(phase.samples.first_error);
}

absl::StatusOr<std::vector<std::string>> parse_scenarios(const std::string& list) {
  static const std::vector<std::string> all = {"S1", "S2", "S3", "S4", "S5", "S6", "S7", "G"};
  const auto place = [](const std::string& name) { return std::ranges::find(all, name); };
  std::vector<std::string> out;
  for (size_t at = 0; at <= list.size();) {
    const size_t comma = std::min(list.find(',', at), list.size());
    const std::string item = list.substr(at, comma - at);
    at = comma + 1;
    const size_t dots = item.find("..");
    auto first = place(item.substr(0, dots));
    auto last = dots == std::string::npos ? first : place(item.substr(dots + 2));
    if (item == "all") first = all.begin(), last = std::prev(all.end());
    if (item == "idle") {
      out.push_back(item);
      continue;
    }
    if (first == all.end() || last == all.end() || last < first)
      return absl::InvalidArgumentError(
          cat("'", item, "': want S1 to S7, G, idle, a range like S1..S3, or all"));
    out.insert(out.end(), first, last + 1);
  }
  return out;
}

}  // namespace baton::cli
