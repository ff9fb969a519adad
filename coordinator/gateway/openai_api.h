#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/gateway/gateway_observer.h"
#include "coordinator/gateway/generation_call.h"
#include "coordinator/gateway/routes.h"
#include "coordinator/gateway/text_pool.h"
#include "coordinator/request/request_port.h"
#include "text/grammar_cache.h"
#include "text/model_text.h"

namespace baton::coordinator {

struct OpenAiOptions {
  std::vector<std::string> model_names;  // what clients may ask for; "default" is always served
  std::string version;
};

struct OpenAiDeps {
  const text::ModelText* text = nullptr;
  text::GrammarCache* grammars = nullptr;  // null: requests for constrained answers are refused
  RequestPort* port = nullptr;
  TextPool* pool = nullptr;
  const Clock* clock = nullptr;
  ClusterStatusFn status;
  std::function<uint64_t()> random;
  std::function<int64_t()> unix_time;
  std::function<std::string()> metrics_text;
  GatewayObserver observer;
};

// The API: chat, completions, responses, models, tokenize, detokenize, Anthropic's messages, probes,
// metrics, version; each path with and without /v1. Thread: its handlers run on the io thread; long bodies
// are read on the text pool. Must outlive the server and the pool's threads. Errors of requests are answers,
// never more.
class OpenAiApi {
 public:
  OpenAiApi(OpenAiOptions options, OpenAiDeps deps);
  // Adds all routes. `post_to_io` is HttpServer::post of the server that will get the table: that server does
  // not exist yet, so the wiring hands in a function that finds it (set_io).
  absl::Status add_routes(RouteTable& routes);
  // Before the server's run().
  void set_io(std::function<void(std::function<void()>)> post_to_io) {
    world_.post_to_io = std::move(post_to_io);
  }
  // Thread: any. /ready says 503 and new generations are refused from now on.
  void begin_drain() { draining_ = true; }

 private:
  using Ex = std::shared_ptr<Exchange>;
  struct Job;

  void generate(Ex exchange, Endpoint endpoint);
  void start_call(const std::shared_ptr<Job>& job, std::expected<GenerationPlan, ApiError> plan);
  using Convert = std::expected<std::string, ApiError>(std::string_view body, const RequestContext& context);
  void convert(Ex exchange, std::string endpoint, Convert* work);
  void finish_convert(const std::shared_ptr<Job>& job, std::expected<std::string, ApiError> text);
  void submit(const std::shared_ptr<Job>& job, std::function<void()> work);
  void refuse(const std::shared_ptr<Job>& job, const ApiError& error);
  std::shared_ptr<Job> make_job(Ex exchange, std::string endpoint);

  void models(Ex exchange) const;
  void model(Ex exchange) const;
  void health(Ex exchange) const;
  void ready(Ex exchange) const;
  std::string model_json(const std::string& name) const;
  int64_t context_tokens() const;
  std::string fingerprint() const;
  RequestContext context(uint64_t random, const Job& job) const;

  const OpenAiOptions options_;
  OpenAiDeps deps_;
  CallWorld world_;
  const int64_t created_;  // of the models: when this process started
  std::atomic<bool> draining_ = false;
};

}  // namespace baton::coordinator
