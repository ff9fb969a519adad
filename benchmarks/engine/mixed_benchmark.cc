// Streams that decode while long prompts arrive: the engine with a real model, without network.
//   mixed_benchmark MODEL.gguf [threads=2] [itl_ms=30] [streams=4] [prompt=1500] [prompts=6]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <vector>

#include "base/check.h"
#include "kernels/backend.h"
#include "worker/engine/engine_loop.h"
#include "worker/kv_cache/no_exchange.h"
#include "worker/model/llama_model.h"
#include "worker/model/model_file.h"
#include "worker/model/model_runner.h"

namespace baton::benchmarks {
namespace {

using namespace worker;

constexpr int kBlock = 16;
constexpr int kContext = 2048;
constexpr int kRows = 512;

double quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  std::ranges::sort(values);
  return values[std::min(values.size() - 1, static_cast<size_t>(q * static_cast<double>(values.size())))];
}

struct Settings {
  const char* model = nullptr;
  int threads = 2;
  int itl_ms = 30;
  int streams = 4;
  int prompt = 1500;
  int prompts = 6;
};

class Mixed {
 public:
  explicit Mixed(const Settings& settings) : settings_(settings) {
    file_ = ModelFile::open(settings.model).value();
    backend_ = kernels::make_backend({.threads = settings.threads}).value();
    const ModelSpec& spec = file_->spec();
    model_ =
        LlamaModel::create(spec, file_->weights(), *backend_, {.max_rows = kRows, .max_positions = kContext})
            .value();
    const int64_t blocks = (settings.streams + 2) * kContext / kBlock;
    const auto geometry = kv_geometry(spec, kBlock, kernels::KvType::kBF16, blocks);
    pool_.resize(geometry.pool_bytes() / sizeof(Line));
    BATON_CHECK(backend_->attach_kv(std::as_writable_bytes(std::span(pool_)), geometry).ok());
    runner_ = std::make_unique<ModelRunner>(*model_, clock_);
    EngineOptions options{.blocks = blocks, .block_tokens = kBlock};
    options.scheduler.context_tokens = kContext;
    options.scheduler.token_budget = kRows;
    options.scheduler.max_running = 64;
    options.scheduler.itl_objective = std::chrono::milliseconds(settings.itl_ms);
    engine_ = std::make_unique<Engine>(options, exchange_);
    loop_ = std::make_unique<EngineLoop>(EngineLoop::Parts{*engine_, *runner_, mailbox_, clock_},
                                         [this](std::vector<WorkerMessage>& m) { take(m); });
    BATON_CHECK(mailbox_.post(SetHashKey{{1, 2}}));
  }

  void run() {
    for (int i = 0; i < settings_.streams; ++i) submit(32, kContext - 32);
    for (int i = 0; i < 100; ++i) turn();
    for (int i = 0; i < 300; ++i) turn();  // measured alone
    report("streams alone");
    for (int i = 0; i < settings_.prompts; ++i) {
      prefill_ = submit(settings_.prompt, 1);
      const Instant begun = clock_.now();
      first_token_ = kNever;
      while (first_token_ == kNever) turn();
      ttft_.push_back(to_seconds(first_token_ - begun));
      for (int k = 0; k < 20; ++k) turn();
    }
    report("with prompts");
    std::printf("  TTFT of %d tokens p50 %.0f ms, first %.0f ms: %.0f tok/s of prefill beside the streams\n",
                settings_.prompt, 1e3 * quantile(ttft_, 0.5), 1e3 * ttft_.front(),
                settings_.prompt / quantile(ttft_, 0.5));
    const StepTime::Coefficients& c = engine_->scheduler().step_time().coefficients();
    for (size_t i = 0; i < c.size(); ++i) std::printf("  %s %.3g us\n", StepTime::kTermNames[i], 1e6 * c[i]);
  }

 private:
  struct alignas(64) Line {
    std::byte bytes[64];
  };

  uint64_t submit(int prompt, int max_tokens) {
    GenerateRequest request{.id = RequestId(++requests_)};
    for (int i = 0; i < prompt; ++i)
      request.prompt.push_back(static_cast<TokenId>((requests_ * 7919 + i * 104729ull) % 40000 + 100));
    request.sampling.temperature = 0;
    request.stop.max_tokens = max_tokens;
    BATON_CHECK(mailbox_.post(CoordinatorMessage(Submit{.request = request})));
    return requests_;
  }
  void turn() {
    const EngineStatus before = loop_->status();
    BATON_CHECK(loop_->do_work(clock_.now()).ok());
    const EngineCounters c = engine_->counters();
    steps_.push_back(c.last_step_seconds);
    chunks_.push_back(c.last_chunk_tokens);
    errors_.push_back(std::abs(c.last_predicted_seconds - c.last_step_seconds) / c.last_step_seconds);
    host_ = before.host_seconds - first_host_;
  }
  void take(std::vector<WorkerMessage>& messages) {
    const Instant now = clock_.now();
    for (const WorkerMessage& m : messages) {
      const auto* step = std::get_if<StepReport>(&m);
      if (step == nullptr) continue;
      for (const SequenceTokens& s : step->sequences) {
        if (s.request.value() == prefill_ && first_token_ == kNever) first_token_ = now;
        if (s.request.value() > static_cast<uint64_t>(settings_.streams)) continue;
        Instant& last = last_token_[s.request.value()];
        if (last != Instant()) gaps_.push_back(to_seconds(now - last));
        last = now;
      }
    }
  }
  void report(const char* what) {
    double seconds = 0;
    for (const double s : steps_) seconds += s;
    std::vector<double> chunks;
    for (const double c : chunks_)
      if (c > 0) chunks.push_back(c);
    std::printf(
        "%s: %zu steps, ITL p50 %.1f p95 %.1f p99 %.1f max %.1f ms, prediction error p50 %.1f p95 %.1f %%, "
        "host "
        "%.1f us a step = %.2f %%, chunk p50 %.0f\n",
        what, steps_.size(), 1e3 * quantile(gaps_, 0.5), 1e3 * quantile(gaps_, 0.95),
        1e3 * quantile(gaps_, 0.99), 1e3 * quantile(gaps_, 1), 100 * quantile(errors_, 0.5),
        100 * quantile(errors_, 0.95), 1e6 * host_ / static_cast<double>(steps_.size()),
        100 * host_ / seconds, quantile(chunks, 0.5));
    steps_.clear(), gaps_.clear(), errors_.clear(), chunks_.clear();
    first_host_ = loop_->status().host_seconds;
  }

  const Settings settings_;
  SteadyClock clock_;
  std::vector<Line> pool_;
  std::unique_ptr<ModelFile> file_;
  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<LlamaModel> model_;
  std::unique_ptr<ModelRunner> runner_;
  NoExchange exchange_;
  EngineMailbox mailbox_{1000};
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<EngineLoop> loop_;
  uint64_t requests_ = 0;
  uint64_t prefill_ = 0;
  Instant first_token_ = kNever;
  std::map<uint64_t, Instant> last_token_;
  std::vector<double> steps_, chunks_, errors_, gaps_, ttft_;
  double host_ = 0, first_host_ = 0;
};

}  // namespace
}  // namespace baton::benchmarks

int main(int argc, char** argv) {
  baton::benchmarks::Settings settings;
  if (argc < 2) {
    std::fprintf(stderr, "mixed_benchmark MODEL.gguf [threads] [itl_ms] [streams] [prompt] [prompts]\n");
    return 2;
  }
  settings.model = argv[1];
  int* const numbers[] = {&settings.threads, &settings.itl_ms, &settings.streams, &settings.prompt,
                          &settings.prompts};
  for (int i = 2; i < argc && i < 7; ++i) *numbers[i - 2] = std::atoi(argv[i]);
  baton::benchmarks::Mixed(settings).run();
}
