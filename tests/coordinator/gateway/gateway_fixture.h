#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <boost/json.hpp>
#include <deque>
#include <functional>
#include <mutex>
#include <set>
#include <thread>

#include "coordinator/gateway/http_server.h"
#include "coordinator/gateway/openai_api.h"
#include "tests/coordinator/gateway/fake_model.h"
#include "tests/coordinator/gateway/loopback_client.h"

namespace baton::coordinator {

inline bool soon(const std::function<bool()>& condition) {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > limit) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

inline TokenOutput output(TokenId id) {
  return {.token = id, .logprob = -0.5f, .top = {{id, -0.5f, 0}, {'z', -1.5f, 1}}};
}

// The request flow as the gateway sees it: keeps what was submitted, and answers it with a script.
class ScriptedPort final : public RequestPort {
 public:
  struct Submitted {
    GenerateRequest request;
    std::shared_ptr<RequestSink> sink;
    QueueWait wait = QueueWait::kBounded;
    void say(RequestEvent event) const { sink->on_event(request.id, std::move(event)); }
  };
  using Script = std::function<void(const Submitted&)>;

  RequestId next_id() override { return RequestId(++ids_); }
  void submit(GenerateRequest request, std::shared_ptr<RequestSink> sink, QueueWait wait) override {
    Submitted submitted{std::move(request), std::move(sink), wait};
    Script script;
    {
      std::lock_guard lock(mutex_);
      all_.push_back(submitted);
      script = script_;
    }
    if (script) script(submitted);
  }
  void cancel(RequestId request) override {
    std::lock_guard lock(mutex_);
    cancelled_.insert(request.value());
  }

  void set_script(Script script) {
    std::lock_guard lock(mutex_);
    script_ = std::move(script);
  }
  size_t count() const {
    std::lock_guard lock(mutex_);
    return all_.size();
  }
  Submitted at(size_t i) const {
    std::lock_guard lock(mutex_);
    return all_.at(i);
  }
  Submitted last() const { return at(count() - 1); }
  size_t cancelled() const {
    std::lock_guard lock(mutex_);
    return cancelled_.size();
  }
  void forget() {
    std::lock_guard lock(mutex_);
    all_.clear();
    cancelled_.clear();
  }

  static RouteVerdict verdict() {
    return {.path = "remote-prefill",
            .prefill_worker = "prefill-0",
            .decode_worker = "decode-0",
            .cached_tokens = 3};
  }
  // Answers every request with these tokens, one event each, and an end.
  static Script tokens(std::vector<TokenId> ids, FinishReason reason = FinishReason::kLength) {
    return [ids, reason](const Submitted& s) {
      s.say(Started{verdict()});
      for (const TokenId id : ids) s.say(Tokens{{output(id)}, {}});
      s.say(Finished{
          .reason = reason,
          .usage = {static_cast<int32_t>(s.request.prompt.size()), static_cast<int32_t>(ids.size()), 3},
          .times = {.queue = std::chrono::milliseconds(1), .prefill = std::chrono::milliseconds(2)},
          .verdict = verdict()});
    };
  }

 private:
  mutable std::mutex mutex_;
  std::deque<Submitted> all_;
  std::set<uint64_t> cancelled_;
  Script script_;
  std::atomic<uint64_t> ids_ = 0;
};

inline std::vector<TokenId> bytes_of(std::string_view text) {
  std::vector<TokenId> ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

// A whole gateway on a loopback port, over the scripted request flow.
class GatewayTest : public testing::Test {
 protected:
  GatewayTest() : model_(fake_model()), status_(std::make_shared<ClusterStatus>()) {
    status_->can_generate = true;
    status_->context_tokens = 800;
    status_->smallest_pool_tokens = 600;
  }
  ~GatewayTest() override { stop(); }

  void start(size_t text_queue = 64, int text_threads = 1, HttpServerOptions options = {}) {
    pool_ = std::make_unique<TextPool>(text_queue);
    GatewayObserver observer;
    observer.on_request_done = [this](const CallRecord& r) {
      std::lock_guard lock(mutex_);
      records_.push_back(r);
    };
    observer.on_unknown_field = [this](std::string_view) { ++unknown_fields_; };
    observer.on_disconnect = [this](std::string_view) { ++disconnects_; };
    api_ =
        std::make_unique<OpenAiApi>(OpenAiOptions{.model_names = {"tiny", "org/tiny"}, .version = "1.2.3"},
                                    OpenAiDeps{.text = &model_,
                                               .grammars = grammars_,
                                               .port = &port_,
                                               .pool = pool_.get(),
                                               .clock = &clock_,
                                               .status =
                                                   [this] {
                                                     std::lock_guard lock(mutex_);
                                                     return std::make_shared<const ClusterStatus>(*status_);
                                                   },
                                               .random = [this] { return ++random_; },
                                               .unix_time = [this] { return unix_time_.load(); },
                                               .metrics_text = [] { return "baton_up 1\n"; },
                                               .observer = observer});
    RouteTable routes;
    ASSERT_TRUE(api_->add_routes(routes).ok());
    options.tick = std::chrono::milliseconds(10);
    auto server = HttpServer::listen(options, std::move(routes),
                                     {.clock = &clock_,
                                      .random = [this] { return ++random_; },
                                      .unix_time = [] { return 0; },
                                      .admit = admit_});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    api_->set_io([s = server_.get()](std::function<void()> work) { s->post(std::move(work)); });
    io_ = std::thread([this] { server_->run(); });
    for (int i = 0; i < text_threads; ++i) text_.emplace_back([this] { pool_->run(); });
  }

  void stop() {
    if (!server_) return;
    pool_->close();
    for (auto& t : text_) t.join();
    text_.clear();
    server_->stop();
    io_.join();
    port_.set_script(nullptr);
    port_.forget();
    server_.reset();
  }

  void set_in_flight(int32_t requests) {
    std::lock_guard lock(mutex_);
    status_->requests_in_flight = requests;
  }
  LoopbackClient client() const { return LoopbackClient(server_->port()); }
  static boost::json::value json(const std::string& text) { return boost::json::parse(text); }
  // The JSON of each SSE event; "[DONE]" and comments are left out.
  static std::vector<boost::json::value> events(const std::string& body) {
    std::vector<boost::json::value> out;
    for (size_t at = 0; at < body.size();) {
      const size_t end = body.find("\n\n", at);
      const std::string event = body.substr(at, end - at);
      if (event.starts_with("data: ") && event != "data: [DONE]") out.push_back(json(event.substr(6)));
      if (end == std::string::npos) break;
      at = end + 2;
    }
    return out;
  }
  CallRecord record(size_t i) {
    EXPECT_TRUE(soon([&] {
      std::lock_guard lock(mutex_);
      return records_.size() > i;
    }));
    std::lock_guard lock(mutex_);
    return records_.at(i);
  }

  std::function<std::optional<ApiError>(RouteRole, HttpRequest&)> admit_;
  SteadyClock clock_;
  text::ModelText model_;
  std::mutex mutex_;
  std::shared_ptr<ClusterStatus> status_;
  std::vector<CallRecord> records_;
  std::atomic<int> unknown_fields_ = 0;
  std::atomic<int> disconnects_ = 0;
  std::atomic<int64_t> unix_time_ = 1700000000;
  std::atomic<uint64_t> random_ = 1000;
  ScriptedPort port_;
  text::GrammarCache* grammars_ = nullptr;
  std::unique_ptr<TextPool> pool_;
  std::unique_ptr<OpenAiApi> api_;
  std::unique_ptr<HttpServer> server_;
  std::thread io_;
  std::vector<std::thread> text_;
};

}  // namespace baton::coordinator
