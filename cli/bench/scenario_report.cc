#include "cli/bench/scenario_report.h"

#include <boost/json.hpp>
#include <cstdio>
#include <fstream>
#include <thread>

#include "base/cat.h"
#include "cli/cluster/version.h"

namespace baton::cli {
namespace {

namespace json = boost::json;

constexpr double kMiB = 1 << 20;

json::object spread_json(const std::vector<double>& values) {
  const load::Spread s = load::spread(values);
  return {{"n", s.n}, {"mean", s.mean}, {"p50", s.p50}, {"p95", s.p95}, {"p99", s.p99}, {"max", s.max}};
}

json::array processes_json(const load::Usage& usage) {
  json::array out;
  for (const load::ProcessUse& p : usage.processes)
    out.push_back({{"name", p.process.name},
                   {"role", p.process.role},
                   {"cpu_s", p.cpu_seconds},
                   {"rss_mib", static_cast<double>(p.rss_bytes) / kMiB},
                   {"rss_peak_mib", static_cast<double>(p.rss_peak_bytes) / kMiB}});
  return out;
}

json::object phase_json(const Phase& phase) {
  const load::Samples& s = phase.samples;
  const load::Usage& u = phase.usage;
  json::object paths, stages;
  for (const auto& [path, n] : s.paths) paths[path] = n;
  for (const auto& [stage, ms] : s.stage_ms) stages[stage] = spread_json(ms);
  const double tokens = static_cast<double>(s.output_tokens);
  return {{"phase", phase.name},
          {"seconds", phase.seconds},
          {"requests", s.requests},
          {"failed", s.failed},
          {"first_error", s.first_error},
          {"dropped", s.dropped},
          {"output_tokens", s.output_tokens},
          {"output_tok_s", phase.seconds > 0 ? tokens / phase.seconds : 0},
          {"ttft_ms", spread_json(s.ttft_ms)},
          {"itl_ms", spread_json(s.itl_ms)},
          {"second_token_ms", spread_json(s.second_ms)},
          {"gaps_over_100_ms", s.gaps_over(100)},
          {"gaps_over_500_ms", s.gaps_over(500)},
          {"stages_ms", stages},
          {"paths", paths},
          {"processes", processes_json(u)},
          {"servers_cpu_s", u.servers_cpu_seconds},
          {"client_cpu_s", u.client_cpu_seconds},
          {"client_cpu_share", u.wall_seconds > 0 ? u.client_cpu_seconds / u.wall_seconds : 0},
          {"client_first", phase.client_first},
          {"others_cpu_s", u.others_cpu_seconds},
          {"steal_s", u.steal_seconds}};
}

std::string cpu_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "";
}

std::string phase_line(const Phase& p) {
  const load::Spread ttft = load::spread(p.samples.ttft_ms), itl = load::spread(p.samples.itl_ms);
  char line[256];
  std::snprintf(line, sizeof line,
                "  %-28s %5d %7.1f %9.1f %8.1f %8.1f %8.1f %8.1f %8.1f %8.1f %7.2f %6.3f %6.2f\n",
                p.name.c_str(), p.samples.requests, p.seconds,
                p.seconds > 0 ? static_cast<double>(p.samples.output_tokens) / p.seconds : 0, ttft.p50,
                ttft.p95, ttft.p99, itl.p50, itl.p99, itl.max, p.usage.servers_cpu_seconds,
                p.usage.client_cpu_seconds, p.usage.others_cpu_seconds + p.usage.steal_seconds);
  std::string out = line;
  if (p.samples.failed > 0) out += cat("    ", p.samples.failed, " failed: ", p.samples.first_error, "\n");
  return out;
}

}  // namespace

json::object scenario_json(const ScenarioResult& result) {
  json::object out{{"scenario", result.name},
                   {"what", result.what},
                   {"settings", result.settings},
                   {"summary", result.summary}};
  if (!result.phases.empty())
    for (const auto& [key, value] : phase_json(result.phases.front())) out[key] = value;
  json::array phases;
  for (const Phase& p : result.phases) phases.push_back(phase_json(p));
  out["phases"] = std::move(phases);
  out["failed"] = result.failed();
  return out;
}

std::string scenario_table(const ScenarioResult& result) {
  std::string out = cat(result.name, ": ", result.what, "\n");
  char head[256];
  std::snprintf(head, sizeof head, "  %-28s %5s %7s %9s %8s %8s %8s %8s %8s %8s %7s %6s %6s\n", "", "reqs",
                "s", "tok/s", "TTFT p50", "p95", "p99", "ITL p50", "p99", "max", "cpu s", "client", "others");
  out += head;
  for (const Phase& p : result.phases) out += phase_line(p);
  for (const auto& [key, value] : result.summary) {
    char text[128];
    std::snprintf(text, sizeof text, "  %-28s %.4g\n", std::string(key).c_str(),
                  value.is_number() ? value.to_number<double>() : 0.0);
    out += text;
  }
  return out;
}

json::object machine_json() {
  return {{"cpu", cpu_name()}, {"cores", std::thread::hardware_concurrency()}, {"baton", kVersion}};
}

}  // namespace baton::cli
