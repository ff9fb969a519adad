#include "coordinator/gateway/openai_api.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <ctime>
#include <set>

#include "absl/strings/ascii.h"
#include "base/cat.h"
#include "base/check.h"
#include "coordinator/gateway/answer_grammar.h"
#include "coordinator/gateway/json_writer.h"

namespace baton::coordinator {
namespace {

constexpr auto kRetrySoon = std::chrono::seconds(1);

// A body of a few hundred tokens is read in 0.2 ms: as long as two changes of threads take. While hardly
// anybody else is served it is read where it arrived; with more, the text pool's cores are worth the way. (A
// grammar takes milliseconds to compile, the first one more.)
constexpr size_t kShortBody = 4096;
constexpr int32_t kFewRequests = 4;

int hex_digit(char c) {
  return absl::ascii_isdigit(c) ? c - '0' : absl::ascii_isxdigit(c) ? (c | 0x20) - 'a' + 10 : -1;
}

// %41 to A; a stray percent sign stays.
std::string percent_decoded(std::string_view s) {
  std::string out;
  for (size_t i = 0; i < s.size(); ++i) {
    const int high = s[i] == '%' && i + 2 < s.size() ? hex_digit(s[i + 1]) : -1;
    const int low = high >= 0 ? hex_digit(s[i + 2]) : -1;
    if (low >= 0) i += 2;
    out += low >= 0 ? static_cast<char>(high * 16 + low) : s[i];
  }
  return out;
}

// RFC 3339.
std::string utc_text(int64_t unix_seconds) {
  const auto t = static_cast<time_t>(unix_seconds);
  struct tm parts = {};
  gmtime_r(&t, &parts);
  char text[32];
  return {text, std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts)};
}

std::string status_json(std::string_view status, std::string_view reason) {
  JsonWriter w;
  w.open('{').field("status", status);
  if (!reason.empty()) w.field("reason", reason);
  w.close('}');
  return w.take();
}

HttpAnswer probe_answer(bool good, std::string_view reason) {
  HttpAnswer answer{.status = good ? 200 : 503,
                    .body = status_json(good ? "ok" : "unavailable", good ? "" : reason)};
  if (!good) answer.fields.push_back({"retry-after", "1"});
  return answer;
}

}  // namespace

// A request whose body is being read on the text pool.
struct OpenAiApi::Job {
  Ex exchange;
  std::string endpoint;
  std::string body;
  std::atomic<bool> cancelled = false;
};

OpenAiApi::OpenAiApi(OpenAiOptions options, OpenAiDeps deps)
    : options_(std::move(options)),
      deps_(std::move(deps)),
      world_{.text = *deps_.text,
             .port = *deps_.port,
             .clock = *deps_.clock,
             .observer = deps_.observer,
             .unix_time = deps_.unix_time},
      created_(deps_.unix_time()) {
  BATON_CHECK(deps_.pool && deps_.status && deps_.random && deps_.metrics_text);
}

absl::Status OpenAiApi::add_routes(RouteTable& routes) {
  const auto both = [&](const char* method, const std::string& path, RouteRole role,
                        const RouteHandler& handler, ApiDialect dialect = ApiDialect::kOpenAi) {
    RETURN_IF_ERROR(routes.add({method, path, role, handler, dialect}));
    return routes.add({method, "/v1" + path, role, handler, dialect});
  };
  const auto only = [&](const std::string& path, RouteRole role, RouteHandler handler) {
    return routes.add({"GET", path, role, std::move(handler)});
  };
  const auto alive = [](Ex e) { e->answer({.body = status_json("ok", "")}); };
  const auto user = RouteRole::kUser;
  const auto open = RouteRole::kPublic;
  RETURN_IF_ERROR(
      both("POST", "/chat/completions", user, [this](Ex e) { generate(std::move(e), Endpoint::kChat); }));
  RETURN_IF_ERROR(
      both("POST", "/completions", user, [this](Ex e) { generate(std::move(e), Endpoint::kCompletions); }));
  RETURN_IF_ERROR(both(
      "POST", "/messages", user, [this](Ex e) { generate(std::move(e), Endpoint::kMessages); },
      ApiDialect::kAnthropic));
  RETURN_IF_ERROR(both(
      "POST", "/messages/count_tokens", user,
      [this](Ex e) { convert(std::move(e), "count_tokens", count_tokens); }, ApiDialect::kAnthropic));
  RETURN_IF_ERROR(
      both("POST", "/responses", user, [this](Ex e) { generate(std::move(e), Endpoint::kResponses); }));
  RETURN_IF_ERROR(both("POST", "/responses/input_tokens", user,
                       [this](Ex e) { convert(std::move(e), "input_tokens", count_input_tokens); }));
  RETURN_IF_ERROR(
      both("POST", "/tokenize", user, [this](Ex e) { convert(std::move(e), "tokenize", tokenize); }));
  RETURN_IF_ERROR(
      both("POST", "/detokenize", user, [this](Ex e) { convert(std::move(e), "detokenize", detokenize); }));
  RETURN_IF_ERROR(both("GET", "/models", user, [this](Ex e) { models(std::move(e)); }));
  RETURN_IF_ERROR(both("GET", "/models/*", user, [this](Ex e) { model(std::move(e)); }));
  RETURN_IF_ERROR(both("GET", "/health", open, [this](Ex e) { health(std::move(e)); }));
  RETURN_IF_ERROR(only("/ping", open, [this](Ex e) { health(std::move(e)); }));
  RETURN_IF_ERROR(only("/live", open, alive));
  RETURN_IF_ERROR(only("/healthz", open, alive));
  RETURN_IF_ERROR(only("/ready", open, [this](Ex e) { ready(std::move(e)); }));
  RETURN_IF_ERROR(only("/metrics", RouteRole::kOperator, [this](Ex e) {
    e->answer({.content_type = "text/plain; version=0.0.4; charset=utf-8", .body = deps_.metrics_text()});
  }));
  return only("/version", open, [this](Ex e) {
    JsonWriter w;
    w.open('{').field("version", options_.version).close('}');
    e->answer({.body = w.take()});
  });
}

// ---- generation

std::shared_ptr<OpenAiApi::Job> OpenAiApi::make_job(Ex exchange, std::string endpoint) {
  auto job = std::make_shared<Job>();
  job->endpoint = std::move(endpoint);
  job->body = std::move(exchange->mutable_request().body);
  job->exchange = std::move(exchange);
  job->exchange->on_client_left([this, weak = std::weak_ptr<Job>(job)] {
    const auto left = weak.lock();
    if (!left) return;
    left->cancelled = true;
    if (deps_.observer.on_disconnect) deps_.observer.on_disconnect(left->endpoint);
  });
  return job;
}

void OpenAiApi::submit(const std::shared_ptr<Job>& job, std::function<void()> work) {
  if (job->body.size() <= kShortBody && deps_.status()->requests_in_flight < kFewRequests &&
      !may_ask_for_grammar(job->body))
    return work();
  if (!deps_.pool->submit(job->body.size(), std::move(work)))
    refuse(job, overloaded("too many requests wait to be read; try again later", kRetrySoon));
}

void OpenAiApi::refuse(const std::shared_ptr<Job>& job, const ApiError& error) {
  const auto& request = job->exchange->request();
  const bool left = job->cancelled;
  if (!left) job->exchange->answer(error_answer(error, request));
  if (deps_.observer.on_request_done)
    deps_.observer.on_request_done({.endpoint = job->endpoint,
                                    .request_id = request.request_id,
                                    .tenant = request.tenant,
                                    .status = left ? 0 : error.status,
                                    .outcome = left ? "client_left" : "refused",
                                    .e2e = deps_.clock->now() - request.received});
}

RequestContext OpenAiApi::context(uint64_t random, const Job& job) const {
  return {.text = *deps_.text,
          .model_names = options_.model_names,
          .grammars = deps_.grammars,
          .context_tokens = context_tokens(),
          .random = random,
          .tenant = job.exchange->request().tenant,
          .cancelled = &job.cancelled};
}

void OpenAiApi::generate(Ex exchange, Endpoint endpoint) {
  const auto job = make_job(std::move(exchange), endpoint_name(endpoint));
  const auto status = deps_.status();
  if (draining_) return refuse(job, not_ready("the server is shutting down", kRetrySoon));
  if (!status->can_generate && !status->connecting)
    return refuse(job, not_ready(cat("no worker can take the request: ", status->reason), kRetrySoon));
  submit(job, [this, job, endpoint, random = deps_.random()] {
    if (job->cancelled) return;
    auto plan = read_generation(job->body, endpoint, context(random, *job));
    world_.post_to_io([this, job, plan = std::move(plan)]() mutable { start_call(job, std::move(plan)); });
  });
}

void OpenAiApi::start_call(const std::shared_ptr<Job>& job, std::expected<GenerationPlan, ApiError> plan) {
  if (!plan || job->cancelled) return refuse(job, plan ? ApiError{} : plan.error());
  if (deps_.observer.on_unknown_field)
    for (const auto& name : plan->unknown_fields) deps_.observer.on_unknown_field(name);
  plan->fingerprint = fingerprint();
  const auto call = std::make_shared<GenerationCall>(world_, job->exchange, *std::move(plan));
  job->exchange->on_client_left([weak = std::weak_ptr<GenerationCall>(call)] {
    if (const auto c = weak.lock()) c->client_left();
  });
  call->start();
}

// ---- tokenize, detokenize, count_tokens

void OpenAiApi::convert(Ex exchange, std::string endpoint, Convert* work) {
  const auto job = make_job(std::move(exchange), std::move(endpoint));
  submit(job, [this, job, work] {
    if (job->cancelled) return;
    auto text = work(job->body, context(0, *job));
    world_.post_to_io(
        [this, job, text = std::move(text)]() mutable { finish_convert(job, std::move(text)); });
  });
}

void OpenAiApi::finish_convert(const std::shared_ptr<Job>& job, std::expected<std::string, ApiError> text) {
  if (!text || job->cancelled) return refuse(job, text ? ApiError{} : text.error());
  job->exchange->answer({.body = *std::move(text)});
  const auto& request = job->exchange->request();
  if (deps_.observer.on_request_done)
    deps_.observer.on_request_done({.endpoint = job->endpoint,
                                    .request_id = request.request_id,
                                    .tenant = request.tenant,
                                    .status = 200,
                                    .outcome = "ok",
                                    .e2e = deps_.clock->now() - request.received});
}

// ---- what is there

// The smallest limit of the pools; the model's own while no worker is known.
int64_t OpenAiApi::context_tokens() const {
  const auto status = deps_.status();
  int64_t limit = status->context_tokens > 0 ? status->context_tokens : deps_.text->context_tokens;
  if (status->smallest_pool_tokens > 0 && (limit == 0 || status->smallest_pool_tokens < limit))
    limit = status->smallest_pool_tokens;
  return limit;
}

// Equal as long as weights and numerics are: what the tokens of a request depend on besides the request.
std::string OpenAiApi::fingerprint() const {
  std::set<std::string> all;
  const auto status = deps_.status();
  for (const auto& worker : status->workers)
    all.insert(cat(worker.description.model_hash, "/", worker.description.numerics_id));
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a: the same in every build
  for (const std::string& one : all)
    for (const char c : one + "\n") hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  char text[24];
  std::snprintf(text, sizeof text, "fp_%016" PRIx64, hash);
  return text;
}

// What OpenAI's clients read of a model, and vLLM's, llama-server's and Anthropic's.
std::string OpenAiApi::model_json(const std::string& name) const {
  JsonWriter w;
  w.open('{').field("id", name).field("object", "model").field("created", created_);
  w.field("owned_by", "baton").field("root", options_.model_names.empty() ? name : options_.model_names[0]);
  w.field("max_model_len", context_tokens()).key("meta").open('{');
  w.field("n_ctx_train", deps_.text->context_tokens).field("n_vocab", deps_.text->vocab_size());
  w.field("has_chat_template", deps_.text->chat_template != nullptr).close('}');
  w.field("type", "model").field("display_name", name).field("created_at", utc_text(created_));
  w.field("max_input_tokens", context_tokens()).field("max_tokens", context_tokens()).close('}');
  return w.take();
}

void OpenAiApi::models(Ex exchange) const {
  JsonWriter w;
  w.open('{').field("object", "list").key("data").open('[');
  const std::vector<std::string> alone = {"default"};
  const auto& names = options_.model_names.empty() ? alone : options_.model_names;
  for (const auto& name : names) w.raw(model_json(name));
  w.close(']').field("has_more", false).field("first_id", names.front()).field("last_id", names.back());
  w.close('}');
  exchange->answer({.body = w.take()});
}

void OpenAiApi::model(Ex exchange) const {
  std::string_view path = exchange->request().path;
  if (path.ends_with('/')) path.remove_suffix(1);
  const std::string name = percent_decoded(path.substr(path.find("/models/") + 8));
  if (const auto error = check_model(name, options_.model_names))
    return exchange->answer(error_answer(*error, exchange->request()));
  exchange->answer({.body = model_json(name)});
}

void OpenAiApi::health(Ex exchange) const {
  const auto status = deps_.status();
  exchange->answer(probe_answer(status->can_generate, status->reason));
}

void OpenAiApi::ready(Ex exchange) const {
  const auto status = deps_.status();
  const std::string reason = draining_              ? "shutting down"
                             : status->can_generate ? status->awaited
                                                    : status->reason;
  exchange->answer(probe_answer(status->can_generate && reason.empty(), reason));
}

}  // namespace baton::coordinator
