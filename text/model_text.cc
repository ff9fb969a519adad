#include "text/model_text.h"

#include <algorithm>
#include <filesystem>

#include "base/cat.h"
#include "text/model_sources.h"
#include "text/rust_chat_template.h"

namespace baton::text {

void add_end_token(ModelText& model, int64_t id) {
  if (id < 0 || id >= model.vocab_size()) return;
  const auto token = static_cast<TokenId>(id);
  if (std::ranges::find(model.end_token_ids, token) == model.end_token_ids.end())
    model.end_token_ids.push_back(token);
}

absl::Status set_embedding_rows(ModelText& model, int64_t rows) {
  const Tokenizer& tokenizer = *model.tokenizer;
  model.embedding_rows = std::max<int64_t>(rows, 0);
  for (TokenId id = model.vocab_size(); id < tokenizer.vocab_size(); ++id) {
    if (tokenizer.is_special(id) || tokenizer.token_piece(id).empty()) continue;
    return absl::InvalidArgumentError(
        cat("the tokenizer has ", tokenizer.vocab_size(), " ids and the model's embedding ", rows,
            " rows, and id ", id, ", `", tokenizer.token_piece(id),
            "`, is no special token: use the tokenizer that the weights were made with"));
  }
  return absl::OkStatus();
}

int32_t ModelText::vocab_size() const {
  const int32_t ids = tokenizer->vocab_size();
  return embedding_rows > 0 ? static_cast<int32_t>(std::min<int64_t>(embedding_rows, ids)) : ids;
}

absl::StatusOr<std::vector<TokenId>> ModelText::encode_chat(std::string_view context_json,
                                                            size_t most_tokens) const {
  if (chat_template == nullptr) return absl::FailedPreconditionError("the model has no chat template");
  const auto* rust_template = dynamic_cast<const RustChatTemplate*>(chat_template.get());
  const auto* rust_tokenizer = dynamic_cast<const RustTokenizer*>(tokenizer.get());
  if (rust_template != nullptr && rust_tokenizer != nullptr)
    return rust_template->encode(*rust_tokenizer, context_json, most_tokens);
  // Another implementation cannot tell whose text is whose: nothing becomes a special token.
  ASSIGN_OR_RETURN(const std::string text, chat_template->render(context_json));
  return tokenizer->encode(text, {.add_special = false, .parse_special = false, .most_tokens = most_tokens});
}

namespace {

absl::StatusOr<ModelText> load(const std::string& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) return absl::NotFoundError(path + ": no such file or directory");
  return std::filesystem::is_directory(status) ? load_directory_text(path) : load_gguf_text(path);
}

}  // namespace

absl::StatusOr<ModelText> load_model_text(const std::string& path) {
  ASSIGN_OR_RETURN(ModelText model, load(path));
  if (model.chat_template == nullptr) return model;
  model.tool_syntax = text::tool_syntax(model.chat_template->source());
  model.tool_marks = text::tool_marks(*model.tokenizer, model.tool_syntax);
  model.reasoning_syntax = text::reasoning_syntax(model.chat_template->source());
  model.reasoning_marks = text::reasoning_marks(*model.tokenizer, model.reasoning_syntax);
  return model;
}

}  // namespace baton::text
