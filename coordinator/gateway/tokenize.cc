#include <boost/json.hpp>

#include "base/cat.h"
#include "coordinator/gateway/chat_context.h"
#include "coordinator/gateway/json_fields.h"
#include "coordinator/gateway/messages_request.h"
#include "coordinator/gateway/openai_request.h"
#include "coordinator/gateway/responses_request.h"

namespace baton::coordinator {
namespace {

namespace json = boost::json;

constexpr size_t kMaxText = 8 * 1024 * 1024;
using Answer = std::expected<std::string, ApiError>;

void write_ids(JsonWriter& w, const std::vector<TokenId>& ids) {
  w.key("tokens").open('[');
  for (const TokenId id : ids) w.value(id);
  w.close(']');
}

std::unexpected<ApiError> refused(const RequestContext& context, const absl::Status& status,
                                  std::string param) {
  return std::unexpected(encode_error(context, status, std::move(param)));
}

size_t most_tokens(const RequestContext& context) { return static_cast<size_t>(context.context_limit()); }

// llama-server: {content, add_special, parse_special, with_pieces} -> {tokens}
Answer tokenize_content(JsonFields& fields, const RequestContext& context) {
  const auto content = fields.string("content", kMaxText);
  const bool add_special = fields.boolean("add_special").value_or(false);
  const bool parse_special = fields.boolean("parse_special").value_or(true);
  const bool with_pieces = fields.boolean("with_pieces").value_or(false);
  if (!fields.ok()) return std::unexpected(*fields.error());
  const auto& tokenizer = *context.text.tokenizer;
  const auto ids = tokenizer.encode(
      content.value_or(""),
      {.add_special = add_special, .parse_special = parse_special, .most_tokens = most_tokens(context)});
  if (!ids.ok()) return refused(context, ids.status(), "content");
  JsonWriter w;
  w.open('{');
  if (with_pieces) {
    w.key("tokens").open('[');
    for (const TokenId id : *ids) {
      const std::string bytes = tokenizer.token_bytes(id);
      w.open('{')
          .field("id", id)
          .field("piece", bytes.empty() ? tokenizer.token_piece(id) : bytes)
          .close('}');
    }
    w.close(']');
  } else {
    write_ids(w, *ids);
  }
  w.close('}');
  return w.take();
}

absl::StatusOr<std::vector<TokenId>> encode_messages(JsonFields& fields, const RequestContext& context) {
  const std::string chat = read_chat_context(fields, context.text).json;
  if (!fields.ok()) return absl::InvalidArgumentError(fields.error()->message);
  if (!context.text.chat_template) return absl::InvalidArgumentError("this model has no chat template");
  return context.text.encode_chat(chat, most_tokens(context));
}

// vLLM: {model, prompt | messages, add_special_tokens, return_token_strs} -> {count, max_model_len, tokens};
// parse_special as in /v1/completions.
Answer tokenize_prompt(JsonFields& fields, const RequestContext& context) {
  if (auto error = check_model(fields.string("model", 256).value_or("default"), context.model_names))
    return std::unexpected(*std::move(error));
  const bool strings = fields.boolean("return_token_strs").value_or(false);
  const bool add_special = fields.boolean("add_special_tokens").value_or(true);
  const bool parse_special = fields.boolean("parse_special").value_or(true);
  const auto prompt = fields.string("prompt", kMaxText);
  if (!fields.ok()) return std::unexpected(*fields.error());
  if (!prompt && !fields.any("messages"))
    return std::unexpected(invalid_value("prompt", "the body must have `prompt`, `messages` or `content`"));
  const auto& tokenizer = *context.text.tokenizer;
  const auto ids = prompt ? tokenizer.encode(*prompt, {.add_special = add_special,
                                                       .parse_special = parse_special,
                                                       .most_tokens = most_tokens(context)})
                          : encode_messages(fields, context);
  if (!ids.ok()) return refused(context, ids.status(), prompt ? "prompt" : "messages");
  JsonWriter w;
  w.open('{').field("count", ids->size()).field("max_model_len", context.context_tokens);
  write_ids(w, *ids);
  w.key("token_strs");
  if (strings) {
    w.open('[');
    for (const TokenId id : *ids) w.value(tokenizer.token_piece(id));
    w.close(']');
  } else {
    w.null();
  }
  w.close('}');
  return w.take();
}

// The tokens of a chat, also of more than fit: `{before}"input_tokens":N}`.
Answer count_chat(const std::expected<ChatBody, ApiError>& asked, std::string_view before,
                  const RequestContext& context) {
  if (!asked) return std::unexpected(asked.error());
  JsonFields fields(asked->body);
  if (auto error = check_model(fields.string("model", 256).value_or("default"), context.model_names))
    fields.fail(*std::move(error));
  const std::string chat = read_chat_context(fields, context.text).json;
  if (!fields.ok()) return std::unexpected(*fields.error());
  if (!context.text.chat_template)
    return std::unexpected(not_supported("messages", "this model has no chat template"));
  const auto tokens = context.text.encode_chat(chat);
  if (!tokens.ok()) return refused(context, tokens.status(), "messages");
  return cat(before, "\"input_tokens\":", tokens->size(), "}");
}

}  // namespace

Answer count_tokens(std::string_view body, const RequestContext& context) {
  json::value value;
  if (auto error = parse_json_object(body, value)) return std::unexpected(*std::move(error));
  return count_chat(messages_as_chat(value.get_object(), false), "{", context);
}

Answer count_input_tokens(std::string_view body, const RequestContext& context) {
  json::value value;
  if (auto error = parse_json_object(body, value)) return std::unexpected(*std::move(error));
  return count_chat(responses_as_chat(value.get_object()), R"({"object":"response.input_tokens",)", context);
}

Answer tokenize(std::string_view body, const RequestContext& context) {
  json::value value;
  if (auto error = parse_json_object(body, value)) return std::unexpected(*std::move(error));
  JsonFields fields(value.get_object());
  return fields.any("content") ? tokenize_content(fields, context) : tokenize_prompt(fields, context);
}

// Both dialects send {tokens}; vLLM reads `prompt` from the answer, llama-server's clients `content`.
Answer detokenize(std::string_view body, const RequestContext& context) {
  json::value value;
  if (auto error = parse_json_object(body, value)) return std::unexpected(*std::move(error));
  JsonFields fields(value.get_object());
  if (auto error = check_model(fields.string("model", 256).value_or("default"), context.model_names))
    return std::unexpected(*std::move(error));
  const auto ids = fields.token_ids("tokens", most_tokens(context), context.text.tokenizer->vocab_size());
  if (!fields.ok()) return std::unexpected(*fields.error());
  if (!ids) return std::unexpected(invalid_value("tokens", "`tokens` must be a list of token ids"));
  const std::string text = context.text.tokenizer->decode(*ids, false);
  JsonWriter w;
  w.open('{').field("prompt", text).field("content", text).close('}');
  return w.take();
}

}  // namespace baton::coordinator
