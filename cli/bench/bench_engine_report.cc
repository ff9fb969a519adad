#include <sys/utsname.h>

#include <boost/json.hpp>
#include <cstdio>
#include <fstream>
#include <thread>

#include "base/cat.h"
#include "cli/bench/bench_engine.h"
#include "cli/cluster/version.h"

namespace baton::cli {
namespace {

namespace json = boost::json;

// The value behind "key  : " of a file like /proc/cpuinfo; empty when it is not there.
std::string field_of(const char* file, const std::string& key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    const size_t colon = line.find(':');
    if (colon == line.npos || !line.starts_with(key)) continue;
    const size_t start = line.find_first_not_of(" \t", colon + 1);
    return start == line.npos ? "" : line.substr(start);
  }
  return "";
}

std::string first_word(const char* file) {
  std::ifstream in(file);
  std::string word;
  in >> word;
  return word;
}

json::object machine() {
  utsname system{};
  ::uname(&system);
  return {{"cpu", field_of("/proc/cpuinfo", "model name")},
          {"family", field_of("/proc/cpuinfo", "cpu family")},
          {"cores", std::thread::hardware_concurrency()},
          {"memory", field_of("/proc/meminfo", "MemTotal")},
          {"kernel", system.release},
          {"load_1min", std::atof(first_word("/proc/loadavg").c_str())}};
}

json::object ceilings_of(const EngineReport::ThreadCeilings& c) {
  return {{"threads", c.threads},        {"load_seconds", c.load_seconds},
          {"int8_ops_s", c.peaks.int8},  {"int8_tiles_ops_s", c.peaks.int8_tiles},
          {"bf16_ops_s", c.peaks.bf16},  {"f32_ops_s", c.peaks.f32},
          {"read_bytes_s", c.peaks.read}};
}

json::object row_of(const EngineRow& r) {
  return {{"test", r.decode ? "decode" : "prefill"},
          {"tokens", r.tokens},
          {"batch", r.batch},
          {"depth", r.depth},
          {"threads", r.threads},
          {"steps", r.steps},
          {"repetitions", r.repetitions},
          {"tok_s", r.tok_s},
          {"tok_s_best", r.tok_s_best},
          {"ms_per_step", r.ms_per_step},
          {"host_share", r.host_share},
          {"ratio", r.ratio},
          {"ratio_of", r.ratio_of},
          {"of_read", r.of_read},
          {"of_peak", r.of_peak},
          {"read_bytes_s", r.read_bytes_s},
          {"peak_ops_s", r.peak_ops_s},
          {"bytes", r.bytes},
          {"operations", r.operations}};
}

template <class... Values>
std::string line(const char* format, Values... values) {
  char text[512];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

}  // namespace

std::string to_json(const EngineReport& report) {
  json::array rows, by_threads;
  for (const EngineRow& row : report.rows) rows.push_back(row_of(row));
  for (const auto& c : report.ceilings) by_threads.push_back(ceilings_of(c));
  // The ceilings of the last number of threads, and of each when there are several.
  json::object ceilings = report.ceilings.empty() ? json::object() : ceilings_of(report.ceilings.back());
  ceilings["loops"] = report.peak_loops;
  ceilings["by_threads"] = std::move(by_threads);
  const json::object out{{"model", report.model},
                         {"architecture", report.architecture},
                         {"format", report.format},
                         {"parameters", report.parameters},
                         {"weight_bytes", report.weight_bytes},
                         {"file_bytes", report.file_bytes},
                         {"kv_type", report.kv_type},
                         {"kv_bytes_per_token", report.kv_bytes_per_token},
                         {"backend", report.backend},
                         {"numerics", report.numerics},
                         {"version", kVersion},
                         {"machine", machine()},
                         {"ceilings", std::move(ceilings)},
                         {"rows", std::move(rows)}};
  return json::serialize(out) + "\n";
}

std::string to_table(const EngineReport& report) {
  std::string out =
      line("%s\n%s, %s, %.1f M parameters, %.1f MB read a step; KV %s, %.0f B a token; %s, %s\n",
           report.model.c_str(), report.architecture.c_str(), report.format.c_str(), report.parameters / 1e6,
           report.weight_bytes / 1e6, report.kv_type.c_str(), report.kv_bytes_per_token,
           report.backend.c_str(), report.numerics.c_str());
  for (const auto& c : report.ceilings) {
    const std::string tiles =
        c.peaks.int8_tiles > 0 ? line(" (tiles of 64 columns %.0f)", c.peaks.int8_tiles / 1e9) : "";
    out += line(
        "ceilings of %d threads (%s): int8 %.0f%s, bf16 %.0f, f32 %.0f Gop/s, read %.1f GB/s; loaded in %.2f "
        "s\n",
        c.threads, report.peak_loops.c_str(), c.peaks.int8 / 1e9, tiles.c_str(), c.peaks.bf16 / 1e9,
        c.peaks.f32 / 1e9, c.peaks.read / 1e9, c.load_seconds);
  }
  out += line("%-8s %7s %6s %6s %8s %9s %9s %9s %14s %8s %8s\n", "test", "tokens", "batch", "depth",
              "threads", "tok/s", "best", "ms/step", "ratio", "of read", "of peak");
  for (const EngineRow& r : report.rows)
    out += line("%-8s %7lld %6d %6lld %8d %9.1f %9.1f %9.3f %4.1f %% %6.1f %% of %-4s %6.1f %% %6.1f %%\n",
                r.decode ? "decode" : "prefill", static_cast<long long>(r.tokens), r.batch,
                static_cast<long long>(r.depth), r.threads, r.tok_s, r.tok_s_best, r.ms_per_step,
                100 * r.host_share, 100 * r.ratio, r.ratio_of.c_str(), 100 * r.of_read, 100 * r.of_peak);
  return out;
}

}  // namespace baton::cli
