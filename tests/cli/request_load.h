#pragma once

#include <boost/json.hpp>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/cat.h"
#include "cli/cluster/http_client.h"

namespace baton::cli {

// Streams that are asked for again and again while a test breaks things. Each must end in one of two ways:
// whole, with exactly the tokens it has on an unbroken cluster; or with an error that says so (a status, or
// an error event after tokens that are the first of those). Anything else is kept in wrong(). Threads: one a
// prompt; the rest is for the test's own.
class RequestLoad {
 public:
  struct Prompt {
    std::string text;
    std::vector<int64_t> tokens;  // of the whole answer
  };
  // `inside` runs a function where the address can be reached.
  using Inside = std::function<void(const std::function<void()>&)>;

  RequestLoad(std::string address, std::vector<Prompt> prompts, Inside inside)
      : address_(std::move(address)), prompts_(std::move(prompts)), inside_(std::move(inside)) {
    for (const Prompt& prompt : prompts_)
      threads_.emplace_back([this, &prompt](std::stop_token stop) {
        inside_([&] {
          while (!stop.stop_requested()) ask(prompt);
        });
      });
  }
  ~RequestLoad() { stop(); }
  // Waits for the streams under way.
  void stop() { threads_.clear(); }

  int whole() const { return read(whole_); }
  int failed() const { return read(failed_); }
  std::vector<std::string> wrong() const {
    std::lock_guard lock(mutex_);
    return wrong_;
  }

  static std::string body(const std::string& prompt, int tokens) {
    return cat(R"({"model":"default","prompt":")", prompt, R"(","max_tokens":)", tokens,
               R"(,"temperature":0,"ignore_eos":true,"return_token_ids":true,"stream":true})");
  }

 private:
  struct Stream {
    std::vector<int64_t> tokens;
    bool done = false;
    std::string error;
  };
  static bool on_event(std::string_view data, Stream& stream) {
    if (data == "[DONE]") {
      stream.done = true;
      return true;
    }
    const boost::json::value event = boost::json::parse(data);
    if (const auto* error = event.as_object().if_contains("error"))
      stream.error = boost::json::serialize(*error);
    if (const auto* choices = event.as_object().if_contains("choices"))
      for (const auto& choice : choices->as_array())
        if (const auto* ids = choice.as_object().if_contains("token_ids"); ids != nullptr && ids->is_array())
          for (const auto& id : ids->as_array()) stream.tokens.push_back(id.to_number<int64_t>());
    return true;
  }
  void ask(const Prompt& prompt) {
    Stream stream;
    HttpClient client(address_, std::chrono::seconds(60));
    const auto reply =
        client.post_stream("/v1/completions", body(prompt.text, static_cast<int>(prompt.tokens.size())),
                           [&stream](std::string_view data) { return on_event(data, stream); });
    const int status = reply.ok() ? reply->status : 0;
    const bool prefix = stream.tokens.size() <= prompt.tokens.size() &&
                        std::equal(stream.tokens.begin(), stream.tokens.end(), prompt.tokens.begin());
    const bool refused = status >= 400 && reply->body.find("\"error\"") != std::string::npos;
    std::lock_guard lock(mutex_);
    if (status == 200 && stream.done && stream.error.empty() && stream.tokens == prompt.tokens) {
      ++whole_;
    } else if (prefix && (refused || !stream.error.empty())) {
      ++failed_;
    } else {
      wrong_.push_back(cat("status ", status, " ", reply.ok() ? reply->body : reply.status().ToString(), ", ",
                           stream.tokens.size(), " of ", prompt.tokens.size(), " tokens, ",
                           prefix ? "good so far" : "OTHER TOKENS", stream.done ? ", done" : ""));
    }
    if (status != 200) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  int read(const int& counter) const {
    std::lock_guard lock(mutex_);
    return counter;
  }

  const std::string address_;
  const std::vector<Prompt> prompts_;
  const Inside inside_;
  mutable std::mutex mutex_;
  int whole_ = 0, failed_ = 0;
  std::vector<std::string> wrong_;
  std::vector<std::jthread> threads_;
};

}  // namespace baton::cli
