#pragma once

#include <atomic>
#include <cstdint>
#include <expected>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/gateway/api_error.h"
#include "coordinator/gateway/text_stream.h"
#include "text/grammar_cache.h"
#include "text/model_text.h"
#include "transport/messages/messages.h"

namespace baton::coordinator {

enum class Endpoint : uint8_t { kChat, kCompletions, kMessages, kResponses };
// For metrics and logs.
const char* endpoint_name(Endpoint endpoint);

// A generation request after JSON, template and tokeniser: what goes to the workers and how the answer is
// shaped.
struct GenerationPlan {
  Endpoint endpoint = Endpoint::kChat;
  std::string model;        // as the client named it
  std::string fingerprint;  // of weights and numerics, for the answer
  bool stream = false;
  bool include_usage = false;
  bool continuous_usage = false;
  bool echo = false;
  bool prompt_only = false;  // max_tokens 0 with echo: one token is made, none is told
  bool return_token_ids = false;
  bool logprobs = false;
  int top_logprobs = 0;
  int n = 1;                                         // choices per prompt
  text::ToolSyntax tools = text::ToolSyntax::kNone;  // of the calls to be read; kNone: no tools were given
  text::ReasoningSyntax reasoning =
      text::ReasoningSyntax::kNone;  // told apart from content; kNone: it is not
  bool reasoning_open = false;       // the prompt ends in its first mark
  bool tell_reasoning = true;
  std::string told;                 // responses: members of its object that repeat what was asked
  bool less_room = false;           // messages: for the answer than max_tokens asks for
  bool parallel_tool_calls = true;  // false: an answer ends with its first call
  struct Prompt {
    std::string text;  // for echo
    std::vector<TokenId> tokens;
  };
  std::vector<Prompt> prompts;
  TextStreamOptions text;
  // One per choice, in the order of the choices: n of prompt 0, n of prompt 1 ... Without id, trace_id,
  // time_left.
  std::vector<GenerateRequest> requests;
  std::vector<std::string> unknown_fields;
};

// What is needed to understand a body.
struct RequestContext {
  const text::ModelText& text;
  const std::vector<std::string>& model_names;
  text::GrammarCache* grammars = nullptr;        // null: grammars are refused
  int64_t context_tokens = 0;                    // prompt and output together; 0 = not known
  uint64_t random = 0;                           // seeds of requests that name none come from it
  std::string_view tenant = {};                  // whose prompts share cached prefixes with this one's
  const std::atomic<bool>* cancelled = nullptr;  // looked at between two pieces of work; may be null

  // What a prompt may have at most, tokenised or not: longer texts are refused where their bytes show it.
  int64_t context_limit() const { return context_tokens > 0 ? context_tokens : kContextWhenUnknown; }
  static constexpr int64_t kContextWhenUnknown = 4096;
};

// The body of POST /v1/chat/completions, /v1/completions, /v1/messages or /v1/responses.
// Thread: text pool.
std::expected<GenerationPlan, ApiError> read_generation(std::string_view body, Endpoint endpoint,
                                                        const RequestContext& context);

// The bodies of /tokenize and /detokenize, vLLM's and llama-server's, told apart by their keys; the answer's
// JSON.
std::expected<std::string, ApiError> tokenize(std::string_view body, const RequestContext& context);
std::expected<std::string, ApiError> detokenize(std::string_view body, const RequestContext& context);

// The bodies of /v1/messages/count_tokens and /v1/responses/input_tokens: the tokens of the chat they are.
std::expected<std::string, ApiError> count_tokens(std::string_view body, const RequestContext& context);
std::expected<std::string, ApiError> count_input_tokens(std::string_view body, const RequestContext& context);

// nullopt when `name` is served; "default" always is.
std::optional<ApiError> check_model(std::string_view name, const std::vector<std::string>& model_names);

// 400, context_length_exceeded. `requested`: "5 tokens in the prompt".
ApiError context_exceeded(const RequestContext& context, std::string_view requested, std::string param);
// A text that could not be tokenised, or that is too long to try.
ApiError encode_error(const RequestContext& context, const absl::Status& status, std::string param);

// The seed of choice `choice` of a request: choice 0 has the request's own, the others differ and repeat with
// it.
uint64_t choice_seed(uint64_t seed, uint32_t choice);

}  // namespace baton::coordinator
