#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include "text/model_sources.h"
#include "text/rust_chat_template.h"
#include "text/rust_tokenizer.h"

namespace baton::text {
namespace {

namespace json = boost::json;
namespace fs = std::filesystem;

constexpr uintmax_t kMaxFileBytes = 256u << 20;  // tokenizer.json of the largest vocabularies has 35 MB

// nullopt: there is no such file.
absl::StatusOr<std::optional<std::string>> read_file(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) return std::nullopt;
  if (!fs::is_regular_file(path, error))
    return absl::InvalidArgumentError(path.string() + ": no regular file");
  const auto bytes = fs::file_size(path, error);
  if (error || bytes > kMaxFileBytes)
    return absl::InvalidArgumentError(path.string() + ": larger than " + std::to_string(kMaxFileBytes) +
                                      " bytes");
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  if (!in.good()) return absl::UnavailableError(path.string() + ": cannot be read");
  return std::move(text).str();
}

// An object; empty when there is no such file.
absl::StatusOr<json::object> read_object(const fs::path& path) {
  ASSIGN_OR_RETURN(const auto text, read_file(path));
  if (!text) return json::object();
  boost::system::error_code error;
  json::value value = json::parse(*text, error);
  if (error) return absl::InvalidArgumentError(path.string() + ": JSON: " + error.message());
  if (!value.is_object()) return absl::InvalidArgumentError(path.string() + ": want a JSON object");
  return std::move(value.as_object());
}

// bos_token and the like: a string, or an added token with `content`.
std::optional<std::string> token_text(const json::object& config, std::string_view key) {
  const json::value* value = config.if_contains(key);
  if (value != nullptr && value->is_object()) value = value->as_object().if_contains("content");
  if (value == nullptr || !value->is_string()) return std::nullopt;
  return std::string(value->as_string());
}

// chat_template of tokenizer_config.json: a string, or a list of {name, template} of which "default" is
// taken.
absl::StatusOr<std::optional<std::string>> config_template(const json::object& config) {
  const json::value* value = config.if_contains("chat_template");
  if (value == nullptr || value->is_null()) return std::nullopt;
  if (value->is_string()) return std::string(value->as_string());
  const auto bad =
      absl::InvalidArgumentError("chat_template: want a string, or a list with one named \"default\"");
  if (!value->is_array()) return bad;
  for (const auto& item : value->as_array()) {
    if (!item.is_object()) return bad;
    const auto& named = item.as_object();
    if (token_text(named, "name") == "default") {
      if (auto source = token_text(named, "template")) return source;
    }
  }
  return bad;
}

absl::StatusOr<std::optional<std::string>> template_source(const fs::path& directory,
                                                           const json::object& config) {
  ASSIGN_OR_RETURN(auto file, read_file(directory / "chat_template.jinja"));
  if (file) return file;
  auto source = config_template(config);
  if (!source.ok()) return at((directory / "tokenizer_config.json").string(), source.status());
  return source;
}

absl::Status read_template(const fs::path& directory, const json::object& config, ModelText& model) {
  ASSIGN_OR_RETURN(const auto source, template_source(directory, config));
  if (!source) return absl::OkStatus();
  json::object special;
  for (const char* key : {"bos_token", "eos_token", "unk_token", "pad_token"})
    if (const auto text = token_text(config, key)) special[key] = *text;
  auto created = RustChatTemplate::create(*source, json::serialize(special));
  if (!created.ok()) return at(directory.string(), created.status());
  model.chat_template = *std::move(created);
  return absl::OkStatus();
}

// eos_token_id: an integer or a list of them.
absl::Status read_end_tokens(const fs::path& path, const json::object& config, ModelText& model) {
  const json::value* value = config.if_contains("eos_token_id");
  if (value == nullptr || value->is_null()) return absl::OkStatus();
  const auto bad =
      absl::InvalidArgumentError(path.string() + ": eos_token_id: want an integer or a list of integers");
  const auto add = [&](const json::value& id) {
    if (!id.is_int64()) return false;
    add_end_token(model, id.as_int64());
    return true;
  };
  if (!value->is_array()) return add(*value) ? absl::OkStatus() : bad;
  for (const auto& id : value->as_array())
    if (!add(id)) return bad;
  return absl::OkStatus();
}

// The id whose piece is `text`; -1 when there is none.
int64_t id_of(const Tokenizer& tokenizer, const std::string& text) {
  for (TokenId id = 0; id < tokenizer.vocab_size(); ++id)
    if (tokenizer.token_piece(id) == text) return id;
  return -1;
}

absl::Status read_facts(const fs::path& directory, ModelText& model) {
  const auto config_path = directory / "config.json";
  ASSIGN_OR_RETURN(const auto config, read_object(config_path));
  const json::value* rows = config.if_contains("vocab_size");
  if (rows != nullptr && rows->is_int64())
    if (const auto status = set_embedding_rows(model, rows->as_int64()); !status.ok())
      return at(directory.string(), status);
  const auto generation_path = directory / "generation_config.json";
  ASSIGN_OR_RETURN(const auto generation, read_object(generation_path));
  const bool overrides = generation.contains("eos_token_id");
  RETURN_IF_ERROR(
      read_end_tokens(overrides ? generation_path : config_path, overrides ? generation : config, model));
  if (!model.eos_token.empty()) add_end_token(model, id_of(*model.tokenizer, model.eos_token));
  const json::value* context = config.if_contains("max_position_embeddings");
  if (context != nullptr && context->is_int64() && context->as_int64() > 0 &&
      std::in_range<int32_t>(context->as_int64()))
    model.context_tokens = static_cast<int32_t>(context->as_int64());
  const auto named = directory.has_filename() ? directory : directory.parent_path();
  model.default_name = named.filename().string();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelText> load_directory_text(const std::string& path) {
  const fs::path directory(path);
  const auto tokenizer_path = directory / "tokenizer.json";
  ASSIGN_OR_RETURN(const auto tokenizer_json, read_file(tokenizer_path));
  if (!tokenizer_json)
    return absl::NotFoundError(
        tokenizer_path.string() +
        ": missing: a Hugging Face directory needs it (a tokenizer.model alone is not read)");
  ModelText model;
  auto tokenizer = RustTokenizer::from_json(*tokenizer_json);
  if (!tokenizer.ok()) return at(path, tokenizer.status());
  model.tokenizer = *std::move(tokenizer);
  ASSIGN_OR_RETURN(const auto config, read_object(directory / "tokenizer_config.json"));
  model.bos_token = token_text(config, "bos_token").value_or("");
  model.eos_token = token_text(config, "eos_token").value_or("");
  RETURN_IF_ERROR(read_template(directory, config, model));
  RETURN_IF_ERROR(read_facts(directory, model));
  return model;
}

}  // namespace baton::text
