#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "coordinator/gateway/http_server.h"
#include "tests/coordinator/gateway/loopback_client.h"

namespace baton::coordinator {

// A server whose routes show what a handler can do; exchanges that stay open are kept here.
class ServerTest : public testing::Test {
 protected:
  ~ServerTest() override { stop(); }

  void start(HttpServerOptions options = {}) {
    RouteTable routes;
    const auto add = [&](std::string method, std::string path, RouteHandler handler) {
      ASSERT_TRUE(
          routes.add({std::move(method), std::move(path), RouteRole::kPublic, std::move(handler)}).ok());
    };
    add("GET", "/health", [](auto e) { e->answer({.body = "{}"}); });
    add("GET", "/", [](auto e) { e->answer({.body = "root"}); });
    add("GET", "/below/*", [](auto e) { e->answer({.body = e->request().path + "?" + e->request().query}); });
    add("POST", "/tokenize", [](auto e) { e->answer({.body = e->request().body}); });
    add("POST", "/drop", [](auto) {});
    ASSERT_TRUE(
        routes
            .add({"GET", "/operators", RouteRole::kOperator, [](auto e) { e->answer({.body = "numbers"}); }})
            .ok());
    add("GET", "/field", [](auto e) { e->answer({.fields = {{"x-y", "a\r\nevil: 1"}}}); });
    add("POST", "/wait", [this](auto e) { keep(std::move(e)); });
    add("GET", "/stream", [this](auto e) {
      e->start_stream({.content_type = "text/event-stream; charset=utf-8"});
      e->write("data: 1\n\n");
      keep(std::move(e));
    });
    options.tick = std::chrono::milliseconds(10);
    auto server =
        HttpServer::listen(options, std::move(routes),
                           {.clock = &clock_,
                            .random = [this] { return ++random_; },
                            .unix_time = [] { return 0; },
                            .on_refused = [this](int status) { refused_ = status; },
                            .admit = [](RouteRole, const HttpRequest& r) -> std::optional<ApiError> {
                              if (r.field("x-forbid").empty()) return std::nullopt;
                              return ApiError{.status = 403, .message = "not for you"};
                            },
                            .turn = turn_});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    thread_ = std::thread([this] { server_->run(); });
  }

  void stop() {
    if (!server_) return;
    server_->stop();
    if (thread_.joinable()) thread_.join();
    open_.clear();
    server_.reset();
  }

  void keep(std::shared_ptr<Exchange> e) {
    std::lock_guard lock(mutex_);
    e->on_client_left([this] { ++left_; });
    open_.push_back(std::move(e));
  }
  size_t kept() {
    std::lock_guard lock(mutex_);
    return open_.size();
  }
  // Runs `work` with the kept exchange `i` on the io thread.
  void with(size_t i, std::function<void(Exchange&)> work) {
    server_->post([this, i, work = std::move(work)] { work(*open_[i]); });
  }
  static bool soon(const std::function<bool()>& condition) {
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (!condition()) {
      if (std::chrono::steady_clock::now() > limit) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
  }

  SteadyClock clock_;
  uint64_t random_ = 0;
  std::atomic<int> refused_ = 0;
  std::atomic<int> left_ = 0;
  std::function<Instant(Instant)> turn_;
  std::mutex mutex_;
  std::deque<std::shared_ptr<Exchange>> open_;
  std::unique_ptr<HttpServer> server_;
  std::thread thread_;
};

}  // namespace baton::coordinator
