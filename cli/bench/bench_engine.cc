// bench engine: whole steps of the engine without scheduler and network, as ratios to ceilings of the same
// run.
#include "cli/bench/bench_engine.h"

#include <algorithm>
#include <cstdio>
#include <functional>

#include "base/cat.h"
#include "base/clock.h"
#include "cli/bench/step_cost.h"
#include "cli/bench/stepped_model.h"
#include "cli/cluster/cores.h"
#include "cli/cluster/home.h"
#include "cli/cluster/kv_type.h"

namespace baton::cli {
namespace {

using kernels::roofline::Ceilings;
using kernels::roofline::Peaks;

constexpr int kCeilingTries = 5;
constexpr int kSlices = 8;       // of a repetition; between them the read bandwidth is measured
constexpr int kWarmUpSteps = 4;  // not measured

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::ranges::nth_element(values, values.begin() + std::ssize(values) / 2);
  return values[values.size() / 2];
}

// What a model of the right size is stepped through; one for every number of threads.
struct Bench {
  const BenchEngineOptions& options;
  Ceilings& ceilings;
  SteppedModel& model;
  const StepCost& cost;
};

// The samples of one row, one of each repetition.
struct Samples {
  std::vector<double> seconds, reads, peaks, of_read, of_peak, host;
};

// Pieces of work with ceilings measured in between: of_read and of_peak of a repetition are held against
// what was measured around it.
absl::Status repeat(Bench& bench, const Counted& counted, int slices,
                    const std::function<absl::Status(int slice)>& work, Samples& out) {
  const SteadyClock clock;
  std::vector<double> reads;
  Peaks peaks;
  const auto look = [&] {
    reads.push_back(bench.ceilings.read());
    out.reads.push_back(reads.back());
  };
  const Duration computed = bench.model.computed();
  double seconds = 0;
  for (int slice = 0; slice < slices; ++slice) {
    look();
    const Instant start = clock.now();
    RETURN_IF_ERROR(work(slice));
    seconds += to_seconds(clock.now() - start);
  }
  look();
  if (counted.int8 > 0) peaks.int8 = bench.ceilings.peak(Ceilings::Kind::kInt8);
  if (counted.bf16 > 0) peaks.bf16 = bench.ceilings.peak(Ceilings::Kind::kBFloat16);
  if (counted.f32 > 0 || peaks.bf16 == 0) peaks.f32 = bench.ceilings.peak(Ceilings::Kind::kF32);
  out.seconds.push_back(seconds);
  out.host.push_back(1 - to_seconds(bench.model.computed() - computed) / seconds);
  out.peaks.push_back(peak_of(counted, peaks));
  out.of_read.push_back(counted.bytes / median(reads) / seconds);
  out.of_peak.push_back(compute_seconds(counted, peaks) / seconds);
  return absl::OkStatus();
}

EngineRow summary(EngineRow row, const Counted& counted, const Samples& samples) {
  const double tokens = static_cast<double>(row.tokens) * row.batch;
  const double seconds = median(samples.seconds);
  row.tok_s = tokens / seconds;
  row.tok_s_best = tokens / std::ranges::min(samples.seconds);
  row.ms_per_step = seconds * 1e3 / static_cast<double>(row.steps);
  row.host_share = median(samples.host);
  row.of_read = median(samples.of_read);
  row.of_peak = median(samples.of_peak);
  row.ratio = row.decode ? row.of_read : row.of_peak;
  row.ratio_of = row.decode ? "read" : kind_of(counted);
  row.read_bytes_s = median(samples.reads);
  row.peak_ops_s = median(samples.peaks);
  row.bytes = counted.bytes;
  row.operations = counted.operations();
  row.repetitions = static_cast<int>(samples.seconds.size());
  return row;
}

absl::Status prefill_row(Bench& bench, int64_t depth, int64_t tokens, std::vector<EngineRow>& rows) {
  RETURN_IF_ERROR(bench.model.start(1, depth, tokens));
  const int64_t chunk = bench.model.model().max_rows();
  Counted counted;
  int64_t steps = 0;
  for (int64_t at = 0; at < tokens; at += chunk, ++steps) {
    const int64_t part = std::min(chunk, tokens - at);
    counted += bench.cost.step(part, at + part == tokens ? 1 : 0, bench.cost.attended(depth + at + part));
  }
  RETURN_IF_ERROR(bench.model.prefill(tokens));
  Samples samples;
  for (int i = 0; i < bench.options.repetitions; ++i)
    RETURN_IF_ERROR(repeat(bench, counted, 1, [&](int) { return bench.model.prefill(tokens); }, samples));
  rows.push_back(
      summary({.tokens = tokens, .depth = depth, .threads = bench.ceilings.threads(), .steps = steps},
              counted, samples));
  return absl::OkStatus();
}

absl::Status decode_row(Bench& bench, int64_t depth, int64_t tokens, int batch,
                        std::vector<EngineRow>& rows) {
  RETURN_IF_ERROR(bench.model.start(batch, depth, tokens));
  Counted counted;
  for (int64_t i = 0; i < tokens; ++i)
    counted += bench.cost.step(batch, batch, batch * bench.cost.attended(depth + i + 1));
  for (int i = 0; i < std::min<int64_t>(kWarmUpSteps, tokens); ++i) RETURN_IF_ERROR(bench.model.decode());
  const int slices = static_cast<int>(std::min<int64_t>(kSlices, tokens));
  Samples samples;
  for (int i = 0; i < bench.options.repetitions; ++i) {
    bench.model.rewind();
    RETURN_IF_ERROR(repeat(
        bench, counted, slices,
        [&](int slice) {
          const auto share = kernels::cpu::share_of(tokens, slice, slices);
          for (int64_t t = share.begin; t < share.end; ++t) RETURN_IF_ERROR(bench.model.decode());
          return absl::OkStatus();
        },
        samples));
  }
  rows.push_back(summary({.decode = true,
                          .tokens = tokens,
                          .batch = batch,
                          .depth = depth,
                          .threads = bench.ceilings.threads(),
                          .steps = tokens},
                         counted, samples));
  return absl::OkStatus();
}

absl::Status measure_rows(Bench& bench, std::vector<EngineRow>& rows) {
  for (const int depth : bench.options.depths) {
    for (const int tokens : bench.options.prompt_tokens)
      if (tokens > 0) RETURN_IF_ERROR(prefill_row(bench, depth, tokens, rows));
    for (const int batch : bench.options.batches)
      for (const int tokens : bench.options.output_tokens)
        if (tokens > 0) RETURN_IF_ERROR(decode_row(bench, depth, tokens, batch, rows));
  }
  return absl::OkStatus();
}

absl::Status check(const BenchEngineOptions& o, int64_t context) {
  const int64_t prompt = std::ranges::max(o.prompt_tokens), output = std::ranges::max(o.output_tokens);
  if (prompt <= 0 && output <= 0) return absl::InvalidArgumentError("nothing to measure: -p 0 and -n 0");
  const int64_t depth = std::ranges::max(o.depths);
  if (depth + std::max(prompt, output) > context)
    return absl::InvalidArgumentError(cat("depth ", depth, " and ", std::max(prompt, output),
                                          " tokens more: the model's context is ", context, " tokens"));
  if (const int batch = std::ranges::max(o.batches); batch > o.chunk)
    return absl::InvalidArgumentError(
        cat("batch ", batch, ": a step has ", o.chunk, " rows at most (--chunk)"));
  if (!parse_kv_type(o.kv_type)) return absl::InvalidArgumentError(cat("KV type ", o.kv_type));
  return absl::OkStatus();
}

SteppedModelOptions model_options(const BenchEngineOptions& o, int threads) {
  SteppedModelOptions out;
  out.backend = {
      .device = "cpu", .threads = threads, .numerics = parse_numerics(o.numerics), .isa_limit = o.isa};
  const std::vector<int> cpus = allowed_cores().cpus;
  if (std::ssize(cpus) >= threads) out.backend.cpus.assign(cpus.begin(), cpus.begin() + threads);
  out.kv = *parse_kv_type(o.kv_type);
  out.step_rows = o.chunk;
  const int64_t depth = std::ranges::max(o.depths), output = std::ranges::max(o.output_tokens);
  const int64_t prompt = std::ranges::max(o.prompt_tokens);
  const auto whole_blocks = [](int64_t n) { return n + SteppedModel::kBlockTokens; };
  out.max_positions = depth + std::max(prompt, output);
  out.pool_positions =
      std::max(whole_blocks(depth + prompt), std::ranges::max(o.batches) * whole_blocks(depth + output));
  return out;
}

void describe(const worker::ModelFile& file, const SteppedModel& model, const StepCost& cost,
              EngineReport& report) {
  const kernels::KvGeometry& kv = model.geometry();
  report.model = file.path();
  report.architecture = file.spec().architecture;
  report.format = cost.format();
  report.backend = model.backend().description();
  report.numerics = model.backend().numerics_id(kv.type);
  report.parameters = cost.parameters();
  report.weight_bytes = static_cast<double>(model.model().weight_bytes());
  report.file_bytes = cost.file_bytes();
  report.kv_bytes_per_token = cost.kv_bytes_per_token();
}

absl::Status measure_threads(const BenchEngineOptions& options, const worker::ModelFile& file, int threads,
                             EngineReport& report) {
  const SteppedModelOptions parts = model_options(options, threads);
  const SteadyClock clock;
  const Instant begun = clock.now();
  ASSIGN_OR_RETURN(const auto model, SteppedModel::open(file, parts));
  const double load_seconds = to_seconds(clock.now() - begun);
  const StepCost cost(file.spec(), file.weights(), model->model().weight_bytes(), model->geometry());
  Ceilings ceilings(threads, parts.backend.cpus);
  describe(file, *model, cost, report);
  report.peak_loops = ceilings.instruction_set();
  report.ceilings.push_back({threads, load_seconds, ceilings.measure(kCeilingTries)});
  Bench bench{options, ceilings, *model, cost};
  return measure_rows(bench, report.rows);
}

}  // namespace

absl::StatusOr<EngineReport> measure_engine(const BenchEngineOptions& given) {
  BenchEngineOptions options = given;
  if (options.threads.empty()) options.threads = {allowed_cores().count};
  ASSIGN_OR_RETURN(const std::string path, resolve_model(Home::from_environment(), options.model));
  ASSIGN_OR_RETURN(const auto file, worker::ModelFile::open(path));
  RETURN_IF_ERROR(check(options, file->spec().context_tokens));
  EngineReport report;
  report.kv_type = options.kv_type;
  for (const int threads : options.threads) RETURN_IF_ERROR(measure_threads(options, *file, threads, report));
  return report;
}

int run_bench_engine(const BenchEngineOptions& options) {
  const auto report = measure_engine(options);
  if (!report.ok()) {
    std::fprintf(stderr, "baton: %s\n", std::string(report.status().message()).c_str());
    return absl::IsInvalidArgument(report.status()) ? kExitUsage : kExitFailed;
  }
  std::fputs((options.json ? to_json(*report) : to_table(*report)).c_str(), stdout);
  return kExitOk;
}

}  // namespace baton::cli
