// bench serve: a closed loop of streaming completions against a running cluster.
#include <algorithm>
#include <atomic>
#include <boost/json.hpp>
#include <cstdio>
#include <mutex>
#include <thread>

#include "base/cat.h"
#include "base/rng.h"
#include "cli/bench/bench_commands.h"
#include "cli/cluster/home.h"
#include "cli/cluster/http_client.h"

namespace baton::cli {
namespace {

namespace json = boost::json;
using Steady = std::chrono::steady_clock;

struct Samples {
  std::vector<double> ttft_ms, itl_ms, e2e_ms;
  int64_t output_tokens = 0;
  int failed = 0;
  std::string first_error;
  std::map<std::string, int> paths;

  void merge(const Samples& o) {
    ttft_ms.insert(ttft_ms.end(), o.ttft_ms.begin(), o.ttft_ms.end());
    itl_ms.insert(itl_ms.end(), o.itl_ms.begin(), o.itl_ms.end());
    e2e_ms.insert(e2e_ms.end(), o.e2e_ms.begin(), o.e2e_ms.end());
    output_tokens += o.output_tokens;
    failed += o.failed;
    if (first_error.empty()) first_error = o.first_error;
    for (const auto& [path, n] : o.paths) paths[path] += n;
  }
};

double ms_since(Steady::time_point t) {
  return std::chrono::duration<double, std::milli>(Steady::now() - t).count();
}

double percentile(std::vector<double> values, double p) {
  if (values.empty()) return 0;
  std::ranges::sort(values);
  return values[std::min(values.size() - 1, static_cast<size_t>(p * values.size()))];
}

// Token ids that are ordinary in any vocabulary of a few hundred entries or more; no two prompts share a
// prefix by chance.
json::array random_prompt(Rng& rng, int tokens) {
  json::array out;
  for (int i = 0; i < tokens; ++i) out.push_back(static_cast<int64_t>(300 + rng.below(200)));
  return out;
}

// One request; ITL = gap between events that carry text or tokens.
void run_request(HttpClient& client, const std::string& body, Samples& out) {
  const auto sent = Steady::now();
  auto last = sent;
  int64_t tokens = 0;
  std::string error;
  const auto reply = client.post_stream("/v1/completions", body, [&](std::string_view data) {
    if (data == "[DONE]") return true;
    boost::system::error_code bad;
    const json::value v = json::parse(json::string_view(data.data(), data.size()), bad);
    if (bad || !v.is_object()) return true;
    if (const auto* e = v.as_object().if_contains("error")) error = json::serialize(*e);
    const json::value* ids = v.find_pointer("/choices/0/token_ids", bad);
    if (!ids || !ids->is_array() || ids->as_array().empty()) return true;
    (tokens == 0 ? out.ttft_ms : out.itl_ms).push_back(ms_since(last));
    tokens += static_cast<int64_t>(ids->as_array().size());
    last = Steady::now();
    return true;
  });
  if (!reply.ok()) error = std::string(reply.status().message());
  if (reply.ok() && reply->status != 200) error = reply->body;
  if (error.empty() && tokens == 0) error = "a stream without tokens";
  out.output_tokens += tokens;
  if (error.empty()) {
    out.e2e_ms.push_back(ms_since(sent));
    const auto path = reply->headers.find("x-baton-path");
    ++out.paths[path == reply->headers.end() ? "?" : path->second];
  } else {
    ++out.failed;
    if (out.first_error.empty()) out.first_error = error;
  }
}

json::object spread(const std::vector<double>& v) {
  return {{"p50", percentile(v, 0.5)},
          {"p95", percentile(v, 0.95)},
          {"p99", percentile(v, 0.99)},
          {"max", percentile(v, 1)}};
}

void print(const BenchServeOptions& o, const Samples& s, double seconds) {
  if (o.json) {
    json::object paths;
    for (const auto& [path, n] : s.paths) paths[path] = n;
    const json::object out{{"clients", o.clients},
                           {"requests", o.requests},
                           {"prompt_tokens", o.prompt_tokens},
                           {"output_tokens", o.output_tokens},
                           {"seed", o.seed},
                           {"seconds", seconds},
                           {"failed", s.failed},
                           {"tok_s", s.output_tokens / seconds},
                           {"ttft_ms", spread(s.ttft_ms)},
                           {"itl_ms", spread(s.itl_ms)},
                           {"e2e_ms", spread(s.e2e_ms)},
                           {"paths", paths}};
    std::printf("%s\n", json::serialize(out).c_str());
    return;
  }
  std::printf("%d requests, %d at a time, %d tokens in, %d out: %.1f s, %d failed\n", o.requests, o.clients,
              o.prompt_tokens, o.output_tokens, seconds, s.failed);
  std::printf("  output      %8.1f tok/s\n", s.output_tokens / seconds);
  const auto line = [](const char* name, const std::vector<double>& v) {
    std::printf("  %-10s %8.1f ms p50 %8.1f p95 %8.1f p99 %8.1f max\n", name, percentile(v, 0.5),
                percentile(v, 0.95), percentile(v, 0.99), percentile(v, 1));
  };
  line("TTFT", s.ttft_ms);
  line("ITL", s.itl_ms);
  line("E2E", s.e2e_ms);
  for (const auto& [path, n] : s.paths) std::printf("  path       %8d %s\n", n, path.c_str());
}

}  // namespace

int run_bench_serve(const BenchServeOptions& options) {
  const auto server = server_place(options.url);
  if (!server.ok()) {
    std::fprintf(stderr, "baton: %s\n", std::string(server.status().message()).c_str());
    return kExitFailed;
  }
  Samples all;
  std::mutex mutex;
  std::atomic<int> next = 0;
  const auto start = Steady::now();
  std::vector<std::jthread> clients;
  for (int c = 0; c < options.clients; ++c)
    clients.emplace_back([&] {
      HttpClient client(*server, std::chrono::seconds(600));
      Samples own;
      for (int i; (i = next++) < options.requests;) {
        Rng rng(options.seed * 1000003 + i);
        const json::object body{{"model", "default"},
                                {"prompt", random_prompt(rng, options.prompt_tokens)},
                                {"max_tokens", options.output_tokens},
                                {"temperature", 0},
                                {"ignore_eos", true},
                                {"stream", true},
                                {"return_token_ids", true}};
        run_request(client, json::serialize(body), own);
      }
      std::lock_guard lock(mutex);
      all.merge(own);
    });
  clients.clear();
  const double seconds = std::chrono::duration<double>(Steady::now() - start).count();
  print(options, all, seconds);
  if (all.failed == 0) return kExitOk;
  std::fprintf(stderr, "baton: %d of %d requests failed; the first: %s\n", all.failed, options.requests,
               all.first_error.c_str());
  return kExitFailed;
}

}  // namespace baton::cli
