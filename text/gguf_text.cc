#include <boost/json.hpp>
#include <filesystem>
#include <optional>

#include "base/gguf_file.h"
#include "text/model_sources.h"
#include "text/rust_chat_template.h"
#include "text/rust_tokenizer.h"

namespace baton::text {
namespace {

// The spelling of the token whose id stands under `key`; nullopt when there is none.
std::optional<std::string> spelling(const GgufFile& file, const Tokenizer& tokenizer, std::string_view key) {
  const auto id = file.integer(key);
  if (!id || *id < 0 || *id >= tokenizer.vocab_size()) return std::nullopt;
  return tokenizer.token_piece(static_cast<TokenId>(*id));
}

absl::Status read_template(const GgufFile& file, ModelText& model) {
  constexpr std::string_view kKey = "tokenizer.chat_template";
  const auto source = file.string(kKey);
  if (!source) return absl::OkStatus();
  boost::json::object special;
  constexpr std::pair<const char*, std::string_view> kSpecial[] = {
      {"bos_token", "tokenizer.ggml.bos_token_id"},
      {"eos_token", "tokenizer.ggml.eos_token_id"},
      {"unk_token", "tokenizer.ggml.unknown_token_id"},
      {"pad_token", "tokenizer.ggml.padding_token_id"},
  };
  for (const auto& [name, key] : kSpecial)
    if (const auto text = spelling(file, *model.tokenizer, key)) special[name] = *text;
  auto created = RustChatTemplate::create(*source, boost::json::serialize(special));
  if (!created.ok()) return at(std::string(kKey), created.status());
  model.chat_template = *std::move(created);
  return absl::OkStatus();
}

void read_facts(const GgufFile& file, ModelText& model) {
  for (const char* key :
       {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"})
    add_end_token(model, file.integer(key).value_or(-1));
  model.bos_token = spelling(file, *model.tokenizer, "tokenizer.ggml.bos_token_id").value_or("");
  model.eos_token = spelling(file, *model.tokenizer, "tokenizer.ggml.eos_token_id").value_or("");
  const std::string architecture(file.string("general.architecture").value_or(""));
  const auto context = file.integer(architecture + ".context_length").value_or(0);
  if (context > 0 && std::in_range<int32_t>(context)) model.context_tokens = static_cast<int32_t>(context);
  model.default_name = file.string("general.name").value_or("");
  if (model.default_name.empty()) model.default_name = std::filesystem::path(file.path()).stem().string();
}

}  // namespace

absl::StatusOr<ModelText> load_gguf_text(const std::string& path) {
  ASSIGN_OR_RETURN(const auto file, GgufFile::open(path));
  ModelText model;
  auto tokenizer = RustTokenizer::from_gguf(*file);
  if (!tokenizer.ok()) return at(path, tokenizer.status());
  model.tokenizer = *std::move(tokenizer);
  const auto* embedding = file->tensor("token_embd.weight");
  const int64_t rows = embedding != nullptr && embedding->dims.size() == 2 ? embedding->dims[1] : 0;
  if (const auto status = set_embedding_rows(model, rows); !status.ok()) return at(path, status);
  if (const auto status = read_template(*file, model); !status.ok()) return at(path, status);
  read_facts(*file, model);
  return model;
}

}  // namespace baton::text
