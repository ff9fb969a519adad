#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/gateway/answer_writer.h"
#include "coordinator/gateway/gateway_observer.h"
#include "coordinator/gateway/http_message.h"
#include "coordinator/gateway/openai_request.h"
#include "coordinator/request/request_port.h"

namespace baton::coordinator {

// What a call needs of the world around it. All must outlive the calls.
struct CallWorld {
  const text::ModelText& text;
  RequestPort& port;
  const Clock& clock;
  const GatewayObserver& observer;
  std::function<void(std::function<void()>)> post_to_io;  // any thread
  std::function<int64_t()> unix_time;
};

// One HTTP call that generates, from the understood request to the last byte: hands one
// GenerateRequest per choice to the request flow and turns its events into the answer, a stream or one body.
// Of many choices only some wait for room at a time, so that other calls come in between; the first one's
// patience is that of the admission queue, and when it has room the others get theirs in time.
// Thread: io, but the sinks, which post here from the control thread. Owns its choices; shared by the sinks
// and the exchange's callback. Errors: before the first byte an answer with a status; after it an SSE event
// that says it, and then the connection closes without the end of the chunked body, so that a
// client that looks only at the framing sees the failure too.
class GenerationCall : public std::enable_shared_from_this<GenerationCall> {
 public:
  GenerationCall(CallWorld& world, std::shared_ptr<Exchange> exchange, GenerationPlan plan);
  // The client's leaving must be handed to client_left() from now on.
  void start();
  void client_left();

 private:
  class Sink;
  struct Choice {
    RequestId id;
    std::unique_ptr<TextStream> stream;
    std::optional<text::ReasoningReader> reasoning;  // when the model thinks before it answers
    std::optional<text::ToolCallReader> tools;       // when tools were offered
    int32_t reasoning_tokens = 0;
    std::string thoughts;                    // unary
    std::string text;                        // unary
    std::vector<text::ToolCallPiece> calls;  // unary, whole
    std::vector<TokenOutput> tokens;         // unary
    std::vector<TokenOutput> prompt_tokens;  // with echo and logprobs
    std::string finish_reason;
    StopCause stop_cause;
    int32_t cached_tokens = 0;
    TokenId last_token = -1;
    Instant last_tokens{};
    std::optional<Instant> waits_since;  // handed over, and nothing was heard yet
    bool echoed = false;
    bool done = false;
  };

  void on_event(size_t index, RequestEvent event);
  void on_started(size_t index, const Started& started);
  void on_tokens(size_t index, Tokens tokens);
  void on_finished(size_t index, const Finished& finished);
  void on_failed(const Failed& failed);

  void submit_choices();
  void begin_stream();
  // A piece of an answer's text, in its parts.
  struct Said {
    std::string reasoning, content;
    std::vector<text::ToolCallPiece> calls;
    bool empty() const { return reasoning.empty() && content.empty() && calls.empty(); }
  };
  Said read_tokens(size_t index, std::span<const TokenOutput> tokens, size_t& kept);
  Said read_text(size_t index, std::string text, bool last);
  void add_calls(Said& said, text::ToolText&& text) const;
  void keep(Choice& choice, Said said);
  void tell(size_t index, Said said, std::span<const TokenOutput> tokens);
  std::string echo_text(size_t index);
  void end_choice(size_t index, std::string finish_reason, StopCause cause);
  bool calls_are_whole(const Choice& choice) const;
  bool all_done() const;
  void complete();
  std::string unary_body();
  void cancel_open_choices();
  void report(int status, std::string outcome);

  ChoicePart part_of(size_t index) const;
  AnswerUsage usage() const;
  AnswerUsage usage_of(size_t index) const;
  AnswerTimings timings() const;
  std::vector<HttpField> verdict_fields(const RouteVerdict& verdict, int32_t cached_tokens) const;

  CallWorld& world_;
  std::shared_ptr<Exchange> exchange_;
  const GenerationPlan plan_;
  const std::unique_ptr<AnswerWriter> writer_;
  std::vector<Choice> choices_;
  size_t submitted_ = 0;  // choices before it are handed over
  int waiting_ = 0;
  int may_wait_;
  RouteVerdict verdict_;
  StageTimes stages_;
  bool has_stages_ = false;
  bool started_ = false;  // a first token came
  bool over_ = false;     // answered, failed, or the client left
  Instant received_{};
  Instant first_token_{};
  Instant last_token_{};
};

}  // namespace baton::coordinator
