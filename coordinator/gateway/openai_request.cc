#include "coordinator/gateway/openai_request.h"

#include <algorithm>
#include <boost/json.hpp>
#include <limits>
#include <set>

#include "base/cat.h"
#include "base/rng.h"
#include "coordinator/gateway/answer_grammar.h"
#include "coordinator/gateway/chat_context.h"
#include "coordinator/gateway/json_fields.h"
#include "coordinator/gateway/messages_request.h"
#include "coordinator/gateway/responses_request.h"
#include "text/thought_grammar.h"

namespace baton::coordinator {
namespace {

namespace json = boost::json;

constexpr int64_t kMaxChoicesPerPrompt = 16;
constexpr size_t kMaxPrompts = 128;
constexpr size_t kMaxChoices = 256;
constexpr size_t kMaxStops = 16;
constexpr size_t kMaxStopBytes = 256;
constexpr size_t kMaxStopTokens = 1024;
constexpr size_t kMaxBiases = 1024;
constexpr int64_t kMaxTopLogprobs = 20;
constexpr int64_t kInt32Max = std::numeric_limits<int32_t>::max();
constexpr int32_t kDefaultCompletionTokens = 16;
constexpr const char* kToolsParam = "tools";  // asked for the grammar of calls

// No tenant's name has a line end: what another one says cannot make these bytes.
std::string salt_of(std::string_view tenant, const std::string& asked) {
  return tenant.empty() ? asked : cat(tenant, "\n", asked);
}

// Reads one body into a plan. Each step looks at fields_.ok() only where going on makes no sense.
class GenerationReader {
 public:
  GenerationReader(const json::object& body, Endpoint endpoint, const RequestContext& context)
      : fields_(body), context_(context) {
    plan_.endpoint = endpoint;
  }

  std::expected<GenerationPlan, ApiError> read() {
    read_model();
    read_shape();
    read_sampling();
    read_penalties();
    read_logit_bias();
    read_seed();
    read_stops();
    read_lengths();
    asked_ = read_answer_grammar(fields_);
    chat() ? read_chat_fields() : read_completion_fields();
    read_unsupported();
    if (begun_ && !asked_.grammar.empty())
      fields_.fail(not_supported(asked_.param, cat("`", asked_.param,
                                                   "` holds an answer from its first token on: it cannot be "
                                                   "one that the last message has begun")));
    if (fields_.ok()) check_asked_grammar();
    if (fields_.ok()) chat() ? encode_chat() : read_prompts();
    if (fields_.ok()) make_requests();
    if (!fields_.ok()) return std::unexpected(*fields_.error());
    plan_.unknown_fields = fields_.unknown_fields();
    return std::move(plan_);
  }

 private:
  bool chat() const { return plan_.endpoint != Endpoint::kCompletions; }
  bool messages() const { return plan_.endpoint == Endpoint::kMessages; }
  bool cancelled() const { return context_.cancelled && context_.cancelled->load(std::memory_order_relaxed); }

  void read_model() {
    plan_.model = fields_.string("model", 256).value_or("default");
    if (auto error = check_model(plan_.model, context_.model_names)) fields_.fail(std::move(*error));
  }

  void read_shape() {
    plan_.stream = fields_.boolean("stream").value_or(false);
    plan_.n = static_cast<int>(fields_.integer("n", 1, kMaxChoicesPerPrompt).value_or(1));
    plan_.return_token_ids = fields_.boolean("return_token_ids").value_or(false);
    const json::object* options = fields_.object("stream_options");
    if (!options) return;
    if (!plan_.stream)
      return fields_.fail(
          invalid_value("stream_options", "`stream_options` is only allowed when `stream` is true"));
    JsonFields stream(*options, "stream_options.");
    plan_.include_usage = stream.boolean("include_usage").value_or(false);
    plan_.continuous_usage = stream.boolean("continuous_usage_stats").value_or(false) && plan_.include_usage;
    stream.accept({"include_obfuscation"});
    if (!stream.ok()) fields_.fail(*stream.error());
  }

  void read_sampling() {
    sampling_.temperature = static_cast<float>(fields_.number("temperature", 0, 2).value_or(1));
    sampling_.top_p = static_cast<float>(fields_.number("top_p", 0, 1).value_or(1));
    if (sampling_.top_p <= 0) {  // the most likely token and no other
      sampling_.top_p = 1;
      sampling_.temperature = 0;
    }
    sampling_.top_k =
        static_cast<int32_t>(std::max<int64_t>(fields_.integer("top_k", -1, kInt32Max).value_or(0), 0));
    sampling_.min_p = static_cast<float>(fields_.number("min_p", 0, 1).value_or(0));
  }

  void read_penalties() {
    sampling_.presence_penalty = static_cast<float>(fields_.number("presence_penalty", -2, 2).value_or(0));
    sampling_.frequency_penalty = static_cast<float>(fields_.number("frequency_penalty", -2, 2).value_or(0));
    // Never wider than what workers take (transport/rpc/codec.cc): they end the stream of a coordinator that
    // sends anything else.
    sampling_.repetition_penalty =
        static_cast<float>(fields_.number("repetition_penalty", 0.01, 100).value_or(1));
  }

  void read_logit_bias() {
    const json::object* biases = fields_.object("logit_bias");
    if (!biases) return;
    if (biases->size() > kMaxBiases)
      return fields_.fail(
          invalid_value("logit_bias", cat("`logit_bias` must have at most ", kMaxBiases, " entries")));
    JsonFields values(*biases, "logit_bias.");
    for (const auto& member : *biases) {
      const std::string key(member.key().data(), member.key().size());
      const bool digits =
          !key.empty() && key.size() < 10 && key.find_first_not_of("0123456789") == std::string::npos;
      if (!digits || std::stoi(key) >= vocab())
        return fields_.fail(invalid_value(
            "logit_bias", cat("`logit_bias`: `", key.substr(0, 32), "` is no token id of this model")));
      const auto bias = values.number(key, -100, 100);
      if (!values.ok()) return fields_.fail(*values.error());
      if (bias) sampling_.logit_bias.emplace_back(std::stoi(key), static_cast<float>(*bias));
    }
  }

  void read_seed() {
    const json::value* seed = fields_.any("seed");
    if (!seed) return;
    has_seed_ = true;
    if (seed->is_uint64()) {
      sampling_.seed = seed->get_uint64();
    } else if (const auto n = whole_number(*seed)) {
      sampling_.seed = static_cast<uint64_t>(*n);
    } else {
      fields_.fail(invalid_value("seed", "`seed` must be a whole number of 64 bits"));
    }
  }

  void read_stops() {
    plan_.text.include_stop = fields_.boolean("include_stop_str_in_output").value_or(false);
    plan_.text.skip_special = fields_.boolean("skip_special_tokens").value_or(true);
    if (!fields_.boolean("ignore_eos").value_or(false)) stop_.end_token_ids = context_.text.end_token_ids;
    if (auto ids = fields_.token_ids("stop_token_ids", kMaxStopTokens, vocab()))
      stop_.stop_token_ids = std::move(*ids);
    const char* name = messages() ? "stop_sequences" : "stop";
    const json::value* stop = fields_.any(name);
    if (!stop) return;
    if (stop->is_string()) return add_stop(name, *stop);
    const json::array* list = stop->if_array();
    if (!list || list->size() > kMaxStops)
      return fields_.fail(invalid_value(
          name, cat("`", name, "` must be a string or a list of at most ", kMaxStops, " strings")));
    for (const json::value& s : *list) add_stop(name, s);
  }

  void add_stop(const char* name, const json::value& stop) {
    if (!stop.is_string() || stop.get_string().empty() || stop.get_string().size() > kMaxStopBytes)
      return fields_.fail(
          invalid_value(name, cat("each of `", name, "` must have 1 to ", kMaxStopBytes, " bytes")));
    plan_.text.stop.emplace_back(std::string_view(stop.get_string()));
  }

  void read_lengths() {
    max_tokens_ = fields_.integer("max_tokens", 0, kInt32Max);
    const char* said = "max_tokens";
    if (const auto newer = fields_.integer("max_completion_tokens", 0, kInt32Max)) {
      max_tokens_ = newer;
      said = "max_completion_tokens";
    }
    stop_.min_tokens = static_cast<int32_t>(fields_.integer("min_tokens", 0, kInt32Max).value_or(0));
    plan_.echo = fields_.boolean("echo").value_or(false);
    if (chat() && plan_.echo) fields_.fail(not_supported("echo", "`echo` is not supported in chat"));
    plan_.prompt_only = max_tokens_ == 0 && plan_.echo;
    if (max_tokens_ == 0 && !plan_.prompt_only)
      fields_.fail(invalid_value(said, cat("`", said, "` must be at least 1")));
    if (max_tokens_ && stop_.min_tokens > *max_tokens_)
      fields_.fail(invalid_value("min_tokens", cat("`min_tokens` must not be greater than `", said, "`")));
    check_min_tokens();
    plan_.text.min_tokens = stop_.min_tokens;
  }

  // Until then no token that ends the answer may be drawn: one must be left.
  void check_min_tokens() {
    std::set<TokenId> ends(stop_.end_token_ids.begin(), stop_.end_token_ids.end());
    ends.insert(stop_.stop_token_ids.begin(), stop_.stop_token_ids.end());
    if (stop_.min_tokens > 0 && ends.size() >= static_cast<size_t>(vocab()))
      fields_.fail(invalid_value(
          "stop_token_ids", "`stop_token_ids` holds every token of this model: `min_tokens` cannot be met"));
  }

  void set_logprobs(int64_t top) {
    plan_.logprobs = true;
    plan_.top_logprobs = static_cast<int>(top);
    sampling_.logprobs = plan_.top_logprobs;
    if (plan_.echo) sampling_.prompt_logprobs = plan_.top_logprobs;
  }

  void read_chat_fields() {
    const bool wanted = fields_.boolean("logprobs").value_or(false);
    const auto top = fields_.integer("top_logprobs", 0, kMaxTopLogprobs);
    if (top.value_or(0) > 0 && !wanted)
      fields_.fail(invalid_value("top_logprobs", "`top_logprobs` needs `logprobs` to be true"));
    if (wanted) set_logprobs(top.value_or(0));
    plan_.parallel_tool_calls = fields_.boolean("parallel_tool_calls").value_or(true);
    fields_.accept({"metadata", "prediction", "prompt_cache_key", "prompt_cache_retention",
                    "reasoning_effort", "safety_identifier", "service_tier", "store", "verbosity"});
    if (const json::array* modalities = fields_.array("modalities", 8))
      for (const json::value& modality : *modalities)
        if (modality != "text")
          fields_.fail(not_supported("modalities", "`modalities`: only text is supported"));
    if (fields_.any("web_search_options"))
      fields_.fail(not_supported("web_search_options", "`web_search_options` is not supported"));
    refuse_functions();
    if (fields_.any("audio")) fields_.fail(not_supported("audio", "`audio` is not supported"));
    read_reasoning_fields();
    ChatContext chat = read_chat_context(fields_, context_.text);
    chat_context_ = std::move(chat.json);
    begun_ = chat.begun;
    if (!chat.tools) return;
    plan_.tools = context_.text.tool_syntax;
    std::ranges::copy(context_.text.tool_marks, std::back_inserter(plan_.text.spelled));
    if (fields_.ok()) ask_for_calls(chat);
  }

  // As vLLM, SGLang and llama-server name it.
  void read_reasoning_fields() {
    const bool apart = fields_.boolean("separate_reasoning").value_or(true);
    const std::string format = fields_.string("reasoning_format", 32).value_or("auto");
    if (format != "auto" && format != "deepseek" && format != "none")
      fields_.fail(
          invalid_value("reasoning_format", "`reasoning_format` must be \"auto\", \"deepseek\" or \"none\""));
    plan_.tell_reasoning = fields_.boolean("include_reasoning").value_or(true);
    if (!apart || format == "none") return;
    plan_.reasoning = context_.text.reasoning_syntax;
    plan_.text.spelled = context_.text.reasoning_marks;
  }

  // The answer must be calls, or, where that is the model's choice, calls in place of the JSON that was asked
  // for.
  void ask_for_calls(const ChatContext& chat) {
    const bool forced = chat.choice != ToolChoice::kAuto;
    const bool asked = !asked_.grammar.empty();
    if (!forced && !asked) return;
    const bool either = asked_.grammar.kind == GrammarKind::kJsonSchema && !forced &&
                        plan_.tools != text::ToolSyntax::kObject;
    if (asked && !either)
      return fields_.fail(invalid_value(
          asked_.param, cat("`", asked_.param,
                            "` and calls of `tools` exclude each other here: leave one out, or set "
                            "`tool_choice` to ",
                            forced ? "\"auto\" or " : "", "\"none\"")));
    check_asked_grammar();
    if (!fields_.ok()) return;
    const bool one = chat.choice == ToolChoice::kNamed || !plan_.parallel_tool_calls;
    const auto count = one ? text::CallCount::kOne : text::CallCount::kOneOrMore;
    asked_ = {text::tool_grammar(context_.text, tool_signatures(fields_, chat), count, asked_.grammar.source),
              kToolsParam};
  }

  void refuse_functions() {
    const json::value* functions = fields_.any("functions");
    const json::value* call = fields_.any("function_call");
    if (functions && !is_empty(*functions))
      fields_.fail(not_supported("functions", "`functions` is not supported; use `tools`"));
    if (call && !is_empty(*call) && *call != "none")
      fields_.fail(not_supported("function_call", "`function_call` is not supported; use `tool_choice`"));
  }

  void read_completion_fields() {
    if (const auto top = fields_.integer("logprobs", 0, kMaxTopLogprobs)) set_logprobs(*top);
    if (const json::value* suffix = fields_.any("suffix"); suffix && *suffix != "")
      fields_.fail(not_supported("suffix", "`suffix` is not supported"));
    if (const auto best = fields_.integer("best_of", 1, kMaxChoicesPerPrompt); best && *best != plan_.n)
      fields_.fail(not_supported("best_of", "`best_of` other than `n` is not supported"));
    add_special_ = fields_.boolean("add_special_tokens").value_or(true);
    parse_special_ = fields_.boolean("parse_special").value_or(true);
  }

  // What would change the answer, were it done, is refused rather than ignored.
  void read_unsupported() {
    for (const char* name : {"allowed_token_ids", "bad_words", "truncate_prompt_tokens", "prompt_logprobs"})
      if (const json::value* asked = fields_.any(name); asked && !is_empty(*asked))
        fields_.fail(not_supported(name, cat("`", name, "` is not supported")));
    if (fields_.boolean("use_beam_search").value_or(false))
      fields_.fail(not_supported("use_beam_search", "`use_beam_search` is not supported"));
    cache_salt_ = fields_.string("cache_salt", 256).value_or("");
    fields_.accept({"user", "spaces_between_special_tokens", "add_special_tokens"});
  }

  void check_asked_grammar() {
    if (asked_.grammar.empty()) return;
    if (auto error = check_grammar(asked_, context_)) fields_.fail(std::move(*error));
  }

  int32_t vocab() const { return context_.text.vocab_size(); }

  void encode_chat() {
    if (!context_.text.chat_template)
      return fields_.fail(not_supported("messages", "this model has no chat template; use /v1/completions"));
    if (cancelled()) return fields_.fail({.status = 499, .message = "the client left"});
    auto tokens = context_.text.encode_chat(chat_context_, static_cast<size_t>(context_limit()));
    if (!tokens.ok()) return fail_to_encode(tokens.status());
    plan_.prompts.push_back({.text = "", .tokens = *std::move(tokens)});
    plan_.reasoning_open =
        begun_ ? begun_in_thoughts()
               : text::opens_reasoning(*context_.text.tokenizer, plan_.reasoning, plan_.prompts[0].tokens);
    if (begun_ && !plan_.reasoning_open)
      plan_.reasoning = text::ReasoningSyntax::kNone;  // goes on in content
    if (!asked_.grammar.empty()) hold_behind_thoughts();
  }

  // A grammar is of what the model says when it has thought. Where that cannot be, or the model is not to
  // think, it holds from the first token on.
  void hold_behind_thoughts() {
    if (plan_.reasoning == text::ReasoningSyntax::kNone) return;
    std::optional<Grammar> both;
    if (!text::ends_reasoning(*context_.text.tokenizer, plan_.reasoning, plan_.prompts[0].tokens))
      both = text::behind_thoughts(context_.text, plan_.reasoning_open, asked_.grammar,
                                   asked_.param == kToolsParam);
    if (!both) {
      plan_.reasoning = text::ReasoningSyntax::kNone;
      return;
    }
    asked_.grammar = *std::move(both);
    check_asked_grammar();
  }

  // Whether the beginning of the answer, behind what the template writes before an answer, ends among
  // thoughts.
  bool begun_in_thoughts() {
    if (plan_.reasoning == text::ReasoningSyntax::kNone) return false;
    json::value chat = json::parse(chat_context_);
    json::string& last = chat.at("messages").get_array().back().at("content").get_string();
    const std::string begun(last);
    last.clear();
    const auto before = context_.text.encode_chat(json::serialize(chat));
    if (!before.ok()) return false;
    text::ReasoningReader reader(plan_.reasoning,
                                 text::opens_reasoning(*context_.text.tokenizer, plan_.reasoning, *before));
    reader.push(begun);
    return reader.thinking();
  }

  void read_prompts() {
    const json::value* prompt = fields_.any("prompt");
    const auto wrong = [&] {
      fields_.fail(invalid_value(
          "prompt", "`prompt` must be a string, a list of strings, a list of token ids or a list of those"));
    };
    if (!prompt) return wrong();
    if (prompt->is_string()) return add_text(*prompt);
    if (!prompt->is_array() || prompt->get_array().empty()) return wrong();
    const json::array& list = prompt->get_array();
    if (list[0].is_number()) return add_ids(list);
    if (list.size() > kMaxPrompts)
      return fields_.fail(
          invalid_value("prompt", cat("`prompt` must have at most ", kMaxPrompts, " prompts")));
    for (const json::value& item : list) {
      if (!fields_.ok()) return;
      if (item.kind() != list[0].kind()) return wrong();
      if (item.is_string()) {
        add_text(item);
      } else if (item.is_array()) {
        add_ids(item.get_array());
      } else {
        return wrong();
      }
    }
  }

  void add_text(const json::value& item) {
    if (cancelled()) return fields_.fail({.status = 499, .message = "the client left"});
    const std::string_view text = item.get_string();
    auto tokens =
        context_.text.tokenizer->encode(text, {.add_special = add_special_,
                                               .parse_special = parse_special_,
                                               .most_tokens = static_cast<size_t>(context_limit())});
    if (!tokens.ok()) return fail_to_encode(tokens.status());
    plan_.prompts.push_back({.text = std::string(text), .tokens = *std::move(tokens)});
  }

  void add_ids(const json::array& ids) {
    GenerationPlan::Prompt prompt;
    if (auto error = read_token_ids(ids, "prompt", vocab(), prompt.tokens))
      return fields_.fail(std::move(*error));
    if (plan_.echo) prompt.text = context_.text.tokenizer->decode(prompt.tokens, plan_.text.skip_special);
    plan_.prompts.push_back(std::move(prompt));
  }

  // The tokens this prompt may be answered with; nullopt after an error.
  std::optional<int32_t> room_for(size_t prompt_tokens) {
    const int64_t limit = context_limit();
    const int64_t room = limit - static_cast<int64_t>(prompt_tokens);
    int64_t wanted =
        plan_.prompt_only
            ? 1
            : max_tokens_.value_or(chat() ? room : std::min<int64_t>(kDefaultCompletionTokens, room));
    if (messages() && wanted > room && room >= 1) {  // its clients ask for more than small models have
      plan_.less_room = true;
      wanted = room;
    }
    if (wanted >= 1 && wanted <= room) return static_cast<int32_t>(std::min(wanted, kInt32Max));
    const std::string asked =
        max_tokens_ && room >= 1 ? cat(" and ", *max_tokens_, " for the answer") : std::string();
    fields_.fail(
        context_exceeded(context_, cat(prompt_tokens, " tokens in the prompt", asked), prompt_field()));
    return std::nullopt;
  }

  int64_t context_limit() const { return context_.context_limit(); }
  const char* prompt_field() const { return chat() ? "messages" : "prompt"; }

  void fail_to_encode(const absl::Status& status) {
    fields_.fail(encode_error(context_, status, prompt_field()));
  }

  // Templates may write special tokens that the weights have no row for.
  bool has_rows_for(const std::vector<TokenId>& tokens) {
    const auto& tokenizer = *context_.text.tokenizer;
    if (tokenizer.vocab_size() == vocab()) return true;
    const auto beyond = std::ranges::find_if(tokens, [this](TokenId id) { return id >= vocab(); });
    if (beyond == tokens.end()) return true;
    fields_.fail(
        invalid_value(prompt_field(), cat("the prompt has the token `", tokenizer.token_piece(*beyond),
                                          "` (id ", *beyond, "), which this model's weights do not have")));
    return false;
  }

  void make_requests() {
    const size_t n = static_cast<size_t>(plan_.n);
    if (plan_.prompts.size() * n > kMaxChoices)
      return fields_.fail(invalid_value("n", cat("prompts times `n` must be at most ", kMaxChoices)));
    plan_.text.end_token_ids = stop_.end_token_ids;
    plan_.text.stop_token_ids = stop_.stop_token_ids;
    for (const auto& prompt : plan_.prompts) {
      if (prompt.tokens.empty()) return fields_.fail(invalid_value(prompt_field(), "the prompt is empty"));
      if (!has_rows_for(prompt.tokens)) return;
      const auto room = room_for(prompt.tokens.size());
      if (!room) return;
      if (stop_.min_tokens > *room)
        return fields_.fail(invalid_value("min_tokens", cat("`min_tokens` must not be greater than the ",
                                                            *room, " tokens the answer may have")));
      for (uint32_t k = 0; k < n; ++k) {
        GenerateRequest request{.tenant_salt = salt_of(context_.tenant, cache_salt_),
                                .prompt = prompt.tokens,
                                .sampling = sampling_,
                                .stop = stop_,
                                .grammar = asked_.grammar};
        request.stop.max_tokens = *room;
        request.sampling.seed =
            has_seed_ ? choice_seed(sampling_.seed, k)
                      : choice_seed(context_.random, static_cast<uint32_t>(plan_.requests.size()));
        plan_.requests.push_back(std::move(request));
      }
    }
  }

  JsonFields fields_;
  const RequestContext& context_;
  GenerationPlan plan_;
  SamplingParams sampling_;
  StopParams stop_;
  std::optional<int64_t> max_tokens_;
  AskedGrammar asked_;
  std::string chat_context_;
  bool begun_ = false;  // the answer is, in that
  std::string cache_salt_;
  bool has_seed_ = false;
  bool add_special_ = true;
  bool parse_special_ = true;  // who writes a raw prompt writes the turns of a chat, too, if any
};

// What is wrong with a format is told under the name that the client gave it.
ApiError in_words_of(Endpoint endpoint, ApiError error) {
  constexpr std::string_view kName = "response_format";
  const std::string_view own = endpoint == Endpoint::kMessages ? "output_config.format" : "text.format";
  if (!error.param.starts_with(kName)) return error;
  error.param.replace(0, kName.size(), own);
  if (const size_t at = error.message.find(kName); at != std::string::npos)
    error.message.replace(at, kName.size(), own);
  return error;
}

}  // namespace

ApiError context_exceeded(const RequestContext& context, std::string_view requested, std::string param) {
  return {.status = 400,
          .message = cat("This model's maximum context length is ", context.context_limit(),
                         " tokens. However, you requested ", requested, "."),
          .param = std::move(param),
          .code = "context_length_exceeded"};
}

ApiError encode_error(const RequestContext& context, const absl::Status& status, std::string param) {
  if (absl::IsOutOfRange(status))
    return context_exceeded(context, cat(status.message(), " in the prompt"), std::move(param));
  return invalid_value(std::move(param), std::string(status.message()));
}

uint64_t choice_seed(uint64_t seed, uint32_t choice) {
  if (choice == 0) return seed;
  const auto w = philox({choice, 0, 0, 2}, {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return uint64_t{w[0]} << 32 | w[1];
}

std::optional<ApiError> check_model(std::string_view name, const std::vector<std::string>& model_names) {
  if (name == "default" || std::find(model_names.begin(), model_names.end(), name) != model_names.end())
    return std::nullopt;
  return ApiError{.status = 404,
                  .message = cat("The model `", name, "` does not exist. Here is: ", join(model_names, ", "),
                                 "; default is another name of it."),
                  .type = "not_found_error",
                  .param = "model",
                  .code = "model_not_found"};
}

const char* endpoint_name(Endpoint endpoint) {
  switch (endpoint) {
    case Endpoint::kChat:
      return "chat";
    case Endpoint::kCompletions:
      return "completions";
    case Endpoint::kMessages:
      return "messages";
    case Endpoint::kResponses:
      return "responses";
  }
  return "";
}

std::expected<GenerationPlan, ApiError> read_generation(std::string_view body, Endpoint endpoint,
                                                        const RequestContext& context) {
  json::value value;
  if (auto error = parse_json_object(body, value)) return std::unexpected(*std::move(error));
  const json::object& given = value.get_object();
  if (endpoint == Endpoint::kChat || endpoint == Endpoint::kCompletions)
    return GenerationReader(given, endpoint, context).read();
  auto chat = endpoint == Endpoint::kMessages ? messages_as_chat(given, true) : responses_as_chat(given);
  if (!chat) return std::unexpected(chat.error());
  auto plan = GenerationReader(chat->body, endpoint, context).read();
  if (!plan) return std::unexpected(in_words_of(endpoint, std::move(plan).error()));
  plan->unknown_fields = std::move(chat->unknown_fields);
  plan->told = std::move(chat->told);
  return plan;
}

}  // namespace baton::coordinator
