#include "coordinator/gateway/generation_call.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/cat.h"
#include "base/timers.h"

namespace baton::coordinator {
namespace {

// How many choices of a call wait for room at a time: more while they get it at once, so that steps are full;
// fewer when they do not, so that whoever comes later is not behind all of them.
constexpr int kFirstWaiting = 8;
constexpr int kMostWaiting = 64;
constexpr auto kAtOnce = std::chrono::seconds(1);

std::string finish_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEndToken:
    case FinishReason::kStopToken:
      return "stop";
    case FinishReason::kLength:
      return "length";
    default:
      return "error";
  }
}

}  // namespace

// Carries the events of one choice from the control thread to the io thread.
class GenerationCall::Sink final : public RequestSink {
 public:
  Sink(std::shared_ptr<GenerationCall> call, size_t index) : call_(std::move(call)), index_(index) {}
  void on_event(RequestId, RequestEvent event) override {
    call_->world_.post_to_io([call = call_, index = index_, event = std::move(event)]() mutable {
      call->on_event(index, std::move(event));
    });
  }

 private:
  const std::shared_ptr<GenerationCall> call_;
  const size_t index_;
};

GenerationCall::GenerationCall(CallWorld& world, std::shared_ptr<Exchange> exchange, GenerationPlan plan)
    : world_(world),
      exchange_(std::move(exchange)),
      plan_(std::move(plan)),
      writer_(make_answer_writer(*world.text.tokenizer, plan_, exchange_->request().request_id,
                                 world.unix_time())),
      choices_(plan_.requests.size()),
      may_wait_(kFirstWaiting),
      received_(exchange_->request().received) {
  for (auto& choice : choices_) {
    choice.stream = std::make_unique<TextStream>(*world.text.tokenizer, plan_.text);
    if (plan_.reasoning != text::ReasoningSyntax::kNone)
      choice.reasoning.emplace(plan_.reasoning, plan_.reasoning_open);
    if (plan_.tools != text::ToolSyntax::kNone) choice.tools.emplace(plan_.tools);
  }
}

void GenerationCall::start() {
  // All ids first: submit() may answer at once, and a failure cancels the others.
  for (auto& choice : choices_) choice.id = world_.port.next_id();
  submit_choices();
}

void GenerationCall::submit_choices() {
  const Duration spent = world_.clock.now() - received_;
  while (!over_ && submitted_ < choices_.size() && waiting_ < may_wait_) {
    const size_t i = submitted_++;
    choices_[i].waits_since = world_.clock.now();
    ++waiting_;
    GenerateRequest request = plan_.requests[i];
    request.id = choices_[i].id;
    request.trace_id = exchange_->request().request_id;
    request.time_left = std::max<Duration>(timers::kRequestTotal - spent, std::chrono::milliseconds(1));
    world_.port.submit(std::move(request), std::make_shared<Sink>(shared_from_this(), i),
                       i == 0 ? QueueWait::kBounded : QueueWait::kAllItsTime);
  }
}

void GenerationCall::client_left() {
  if (over_) return;
  over_ = true;
  cancel_open_choices();
  if (world_.observer.on_disconnect) world_.observer.on_disconnect(endpoint_name(plan_.endpoint));
  report(plan_.stream && started_ ? 200 : 0, "client_left");
}

void GenerationCall::cancel_open_choices() {
  for (size_t i = 0; i < choices_.size(); ++i) {
    if (std::exchange(choices_[i].done, true) || i >= submitted_) continue;
    world_.port.cancel(choices_[i].id);
  }
}

void GenerationCall::on_event(size_t index, RequestEvent event) {
  if (over_ || choices_[index].done) return;
  if (const auto since = std::exchange(choices_[index].waits_since, std::nullopt)) {
    --waiting_;
    const bool at_once = world_.clock.now() - *since < kAtOnce;
    may_wait_ = at_once ? std::min(2 * may_wait_, kMostWaiting) : std::max(may_wait_ / 2, 1);
  }
  if (auto* started = std::get_if<Started>(&event)) {
    on_started(index, *started);
  } else if (auto* tokens = std::get_if<Tokens>(&event)) {
    on_tokens(index, std::move(*tokens));
  } else if (auto* finished = std::get_if<Finished>(&event)) {
    on_finished(index, *finished);
  } else if (auto* failed = std::get_if<Failed>(&event)) {
    on_failed(*failed);
  }
  submit_choices();
}

void GenerationCall::on_started(size_t index, const Started& started) {
  choices_[index].cached_tokens = started.verdict.cached_tokens;
  if (started_) return;
  started_ = true;
  verdict_ = started.verdict;
  first_token_ = last_token_ = world_.clock.now();
  if (plan_.stream) begin_stream();
}

// The status line is written only now, when a token is there: until then every error still has a status.
void GenerationCall::begin_stream() {
  HttpAnswer head{.content_type = "text/event-stream; charset=utf-8",
                  .fields = verdict_fields(verdict_, verdict_.cached_tokens)};
  head.fields.push_back({"cache-control", "no-cache"});
  head.fields.push_back({"x-accel-buffering", "no"});
  exchange_->start_stream(std::move(head));
  std::vector<AnswerUsage> so_far;
  for (size_t i = 0; i < choices_.size(); ++i) so_far.push_back(usage_of(i));
  exchange_->write(writer_->begin(so_far));
}

std::vector<HttpField> GenerationCall::verdict_fields(const RouteVerdict& verdict,
                                                      int32_t cached_tokens) const {
  std::vector<HttpField> fields;
  if (!verdict.path.empty()) fields.push_back({"x-baton-path", verdict.path});
  if (!verdict.prefill_worker.empty()) fields.push_back({"x-baton-prefill-worker", verdict.prefill_worker});
  if (!verdict.decode_worker.empty()) fields.push_back({"x-baton-decode-worker", verdict.decode_worker});
  if (verdict.moves > 0) fields.push_back({"x-baton-moves", std::to_string(verdict.moves)});
  if (started_) fields.push_back({"x-baton-cached-tokens", std::to_string(cached_tokens)});
  return fields;
}

void GenerationCall::on_tokens(size_t index, Tokens tokens) {
  Choice& choice = choices_[index];
  if (!started_) on_started(index, {});
  const Instant now = world_.clock.now();
  if (choice.last_tokens != Instant{} && !tokens.tokens.empty() && world_.observer.on_inter_token)
    world_.observer.on_inter_token((now - choice.last_tokens) / static_cast<int64_t>(tokens.tokens.size()));
  if (!tokens.tokens.empty()) {
    choice.last_tokens = last_token_ = now;
    choice.last_token = tokens.tokens.back().token;
  }
  if (plan_.echo && plan_.logprobs && choice.prompt_tokens.empty()) {
    choice.prompt_tokens = std::move(tokens.prompt_tokens);
    // Nothing predicts the first token of a prompt, so workers leave it out; its place is told with null.
    const auto& prompt = plan_.requests[index].prompt;
    if (choice.prompt_tokens.size() + 1 == prompt.size())
      choice.prompt_tokens.insert(choice.prompt_tokens.begin(), TokenOutput{.token = prompt[0]});
  }
  if (plan_.prompt_only) return;

  size_t count = 0;
  Said said = read_tokens(index, tokens.tokens, count);
  const auto kept = std::span<const TokenOutput>(tokens.tokens).first(count);
  if (plan_.stream) {
    tell(index, std::move(said), kept);
  } else {
    keep(choice, std::move(said));
    choice.tokens.insert(choice.tokens.end(), kept.begin(), kept.end());
  }
  const bool one_call = choice.tools && !plan_.parallel_tool_calls && choice.tools->ended() > 0;
  if (!choice.stream->stop_string() && !one_call) return;
  world_.port.cancel(choice.id);
  StopCause cause;
  if (choice.stream->stop_string()) cause = *choice.stream->stop_string();
  end_choice(index, "stop", std::move(cause));
}

// The tokens' text in its parts. `kept`: so many of them belong to the answer.
GenerationCall::Said GenerationCall::read_tokens(size_t index, std::span<const TokenOutput> tokens,
                                                 size_t& kept) {
  Choice& choice = choices_[index];
  if (!choice.reasoning) {
    TextStream::Delta delta = choice.stream->append(tokens);
    kept = delta.tokens;
    return read_text(index, std::move(delta.text), false);
  }
  Said all;
  for (kept = 0;
       kept < tokens.size() && !choice.stream->stop_string();) {  // one by one: thoughts are counted
    const bool thought = choice.reasoning->thinking();
    TextStream::Delta delta = choice.stream->append(tokens.subspan(kept, 1));
    Said said = read_text(index, std::move(delta.text), false);
    choice.reasoning_tokens += thought || choice.reasoning->thinking() ? 1 : 0;
    all.reasoning += said.reasoning;
    all.content += said.content;
    std::ranges::move(said.calls, std::back_inserter(all.calls));
    if (delta.tokens == 0) break;
    ++kept;
  }
  return all;
}

// All of the text is content, when the model does not think and no tools were offered.
GenerationCall::Said GenerationCall::read_text(size_t index, std::string text, bool last) {
  Choice& choice = choices_[index];
  Said said{.content = std::move(text)};
  if (choice.reasoning) {
    text::ReasonedText parts = choice.reasoning->push(said.content);
    if (last) {
      text::ReasonedText rest = choice.reasoning->finish();
      parts.reasoning += rest.reasoning;
      parts.content += rest.content;
    }
    if (plan_.tell_reasoning) said.reasoning = std::move(parts.reasoning);
    said.content = std::move(parts.content);
  }
  if (!choice.tools) return said;
  text::ToolText parts = choice.tools->push(std::exchange(said.content, {}));
  add_calls(said, std::move(parts));
  if (last) add_calls(said, choice.tools->finish());
  return said;
}

void GenerationCall::add_calls(Said& said, text::ToolText&& text) const {
  said.content += text.content;
  for (text::ToolCallPiece& call : text.calls)
    if (plan_.parallel_tool_calls || call.index == 0) said.calls.push_back(std::move(call));
}

void GenerationCall::keep(Choice& choice, Said said) {
  choice.thoughts += said.reasoning;
  choice.text += said.content;
  for (text::ToolCallPiece& call : said.calls) {
    if (call.name.empty()) {
      choice.calls.back().arguments += call.arguments;
    } else {
      choice.calls.push_back(std::move(call));
    }
  }
}

std::string GenerationCall::echo_text(size_t index) {
  Choice& choice = choices_[index];
  if (!plan_.echo || choice.echoed) return {};
  choice.echoed = true;
  return plan_.prompts[index / static_cast<size_t>(plan_.n)].text;
}

ChoicePart GenerationCall::part_of(size_t index) const {
  return {.index = static_cast<int>(index),
          .finish_reason = choices_[index].finish_reason,
          .stop_cause = choices_[index].stop_cause};
}

// One event of the stream, unless it would say nothing.
void GenerationCall::tell(size_t index, Said said, std::span<const TokenOutput> tokens) {
  Choice& choice = choices_[index];
  const bool first = !choice.echoed;
  said.content.insert(0, echo_text(index));
  const bool says = !said.empty() || plan_.return_token_ids || plan_.logprobs || plan_.continuous_usage;
  if (!says) return;
  choice.echoed = true;
  ChoicePart part = part_of(index);
  part.reasoning = said.reasoning;
  part.text = said.content;
  part.calls = said.calls;
  part.tokens = tokens;
  if (first) {
    part.prompt_tokens = choice.prompt_tokens;
    part.prompt_ids = &plan_.requests[index].prompt;
  }
  exchange_->write(writer_->part(part, usage_of(index), nullptr));
}

void GenerationCall::on_finished(size_t index, const Finished& finished) {
  Choice& choice = choices_[index];
  if (finished.reason == FinishReason::kError || finished.reason == FinishReason::kCancelled)
    return on_failed({.status = absl::InternalError("the generation ended without a result"),
                      .verdict = finished.verdict});
  const int32_t moves = verdict_.moves + finished.verdict.moves;  // of all choices
  if (!started_) on_started(index, {.verdict = finished.verdict});
  verdict_ = finished.verdict;
  verdict_.moves = moves;
  stages_ = finished.times;
  has_stages_ = true;
  choice.cached_tokens = finished.usage.cached_tokens;
  StopCause cause;
  if (finished.reason == FinishReason::kStopToken) cause = choice.last_token;
  end_choice(index, finish_name(finished.reason), std::move(cause));
}

// Whether there are calls and a client can make all that it was told: none was cut off by a stop string or an
// end token among its arguments.
bool GenerationCall::calls_are_whole(const Choice& choice) const {
  if (!choice.tools || choice.tools->begun() == 0) return false;
  return choice.tools->whole() >= (plan_.parallel_tool_calls ? choice.tools->begun() : 1);
}

void GenerationCall::end_choice(size_t index, std::string finish_reason, StopCause cause) {
  Choice& choice = choices_[index];
  choice.done = true;
  std::string rest = plan_.prompt_only ? std::string() : choice.stream->finish();
  if (std::holds_alternative<std::monostate>(cause) && choice.stream->stop_string()) {
    cause = *choice.stream->stop_string();  // the last bytes of the text completed it
    finish_reason = "stop";
  }
  Said said = read_text(index, std::move(rest), true);
  if (finish_reason == "stop" && calls_are_whole(choice)) finish_reason = "tool_calls";
  if (!plan_.stream) {
    keep(choice, std::move(said));
  } else if (!said.empty() || (plan_.echo && !choice.echoed)) {
    tell(index, std::move(said), {});
  }
  choice.finish_reason = std::move(finish_reason);
  choice.stop_cause = std::move(cause);
  const bool last = all_done();
  if (plan_.stream) {
    const AnswerTimings times = timings();
    const bool with_timings = last && !plan_.include_usage;
    exchange_->write(writer_->part(part_of(index), with_timings ? usage() : usage_of(index),
                                   with_timings ? &times : nullptr));
  }
  if (last) complete();
}

bool GenerationCall::all_done() const {
  return std::all_of(choices_.begin(), choices_.end(), [](const auto& c) { return c.done; });
}

void GenerationCall::complete() {
  over_ = true;
  if (plan_.stream) {
    exchange_->write(writer_->end(usage(), timings()));
    exchange_->end();
  } else {
    const std::string body = unary_body();
    exchange_->answer({.body = body, .fields = verdict_fields(verdict_, usage().cached_tokens)});
  }
  report(200, "ok");
}

std::string GenerationCall::unary_body() {
  std::vector<ChoicePart> parts;
  for (size_t i = 0; i < choices_.size(); ++i) {
    choices_[i].text.insert(0, echo_text(i));
    ChoicePart part = part_of(i);
    part.reasoning = choices_[i].thoughts;
    part.text = choices_[i].text;
    part.calls = choices_[i].calls;
    part.tokens = choices_[i].tokens;
    part.prompt_tokens = choices_[i].prompt_tokens;
    part.prompt_ids = &plan_.requests[i].prompt;
    parts.push_back(std::move(part));
  }
  return writer_->unary(parts, usage(), timings());
}

void GenerationCall::on_failed(const Failed& failed) {
  over_ = true;
  cancel_open_choices();
  if (!failed.verdict.path.empty()) verdict_ = failed.verdict;
  const ApiError error = from_status(failed.status, failed.retry_after);
  if (plan_.stream && started_) {
    exchange_->write(writer_->error(error));
    exchange_->abort();
  } else {
    HttpAnswer answer = error_answer(error, exchange_->request());
    for (auto& field : verdict_fields(verdict_, 0)) answer.fields.push_back(std::move(field));
    exchange_->answer(std::move(answer));
  }
  report(error.status, error.status < 500 ? "refused" : "failed");
}

AnswerUsage GenerationCall::usage_of(size_t index) const {
  const Choice& choice = choices_[index];
  return {{.prompt_tokens = static_cast<int32_t>(plan_.requests[index].prompt.size()),
           .completion_tokens = choice.stream->token_count(),
           .cached_tokens = choice.cached_tokens},
          choice.reasoning_tokens};
}

// Each prompt counts once, however many choices it has; of its cached tokens the fewest, since later choices
// find what the first has computed.
AnswerUsage GenerationCall::usage() const {
  AnswerUsage sum;
  const size_t n = static_cast<size_t>(plan_.n);
  for (size_t first = 0; first < choices_.size(); first += n) {
    int32_t cached = std::numeric_limits<int32_t>::max();
    for (size_t i = first; i < first + n; ++i) {
      sum.completion_tokens += choices_[i].stream->token_count();
      sum.reasoning_tokens += choices_[i].reasoning_tokens;
      cached = std::min(cached, choices_[i].cached_tokens);
    }
    sum.prompt_tokens += static_cast<int32_t>(plan_.requests[first].prompt.size());
    sum.cached_tokens += cached;
  }
  return sum;
}

AnswerTimings GenerationCall::timings() const {
  return {.ttft = first_token_ - received_,
          .generation = last_token_ - first_token_,
          .stages = stages_,
          .has_stages = has_stages_,
          .verdict = verdict_};
}

void GenerationCall::report(int status, std::string outcome) {
  if (!world_.observer.on_request_done) return;
  world_.observer.on_request_done({.endpoint = endpoint_name(plan_.endpoint),
                                   .request_id = exchange_->request().request_id,
                                   .tenant = exchange_->request().tenant,
                                   .model = plan_.model,
                                   .status = status,
                                   .outcome = std::move(outcome),
                                   .stream = plan_.stream,
                                   .ttft = started_ ? first_token_ - received_ : Duration{},
                                   .e2e = world_.clock.now() - received_,
                                   .choices = static_cast<int32_t>(choices_.size()),
                                   .usage = usage(),
                                   .verdict = verdict_,
                                   .times = stages_});
}

}  // namespace baton::coordinator
