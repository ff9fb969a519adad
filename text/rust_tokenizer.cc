#include "text/rust_tokenizer.h"

#include <utility>

#include "text/utf8_stream.h"

namespace baton::text {
namespace {

constexpr uint32_t kAddSpecial = 1;
constexpr uint32_t kParseSpecial = 2;

// Walks the list that baton_tokenizer_entries wrote.
class EntryReader {
 public:
  explicit EntryReader(std::string_view raw) : raw_(raw) {}
  bool done() const { return raw_.empty(); }
  bool flag() { return take(1)[0] != 0; }
  std::string text() {
    uint32_t size = 0;
    std::memcpy(&size, take(4).data(), 4);
    return std::string(take(size));
  }

 private:
  std::string_view take(size_t bytes) {
    const auto part = raw_.substr(0, bytes);
    raw_.remove_prefix(bytes);
    return part;
  }
  std::string_view raw_;
};

absl::Status bad(std::string_view key, std::string_view what) {
  return absl::InvalidArgumentError(std::string(key).append(": ").append(what));
}

// An id key: -1 when it is absent.
absl::StatusOr<int64_t> id_key(const GgufFile& file, std::string_view key, int64_t absent, size_t tokens) {
  if (file.find(key) == nullptr) return absent < static_cast<int64_t>(tokens) ? absent : -1;
  const auto id = file.integer(key);
  if (!id) return bad(key, "want an integer");
  if (*id < 0 || *id >= static_cast<int64_t>(tokens))
    return bad(key, std::to_string(*id) + " is outside of the vocabulary of " + std::to_string(tokens));
  return *id;
}

absl::StatusOr<int32_t> flag_key(const GgufFile& file, std::string_view key) {
  if (file.find(key) == nullptr) return -1;
  const auto flag = file.boolean(key);
  if (!flag) return bad(key, "want a bool");
  return *flag ? 1 : 0;
}

// A string list as the ABI wants it; empty when the key is absent.
absl::StatusOr<std::vector<BatonBytes>> string_list(const GgufFile& file, std::string_view key) {
  std::vector<BatonBytes> out;
  if (file.find(key) == nullptr) return out;
  const auto* array = file.array(key);
  if (array == nullptr || !array->integers.empty() || !array->floats.empty())
    return bad(key, "want an array of strings");
  out.reserve(array->strings.size());
  for (const auto s : array->strings) out.push_back(to_bytes(s));
  return out;
}

constexpr std::string_view kModel = "tokenizer.ggml.model";

}  // namespace

absl::StatusOr<std::unique_ptr<RustTokenizer>> RustTokenizer::wrap(TokenizerHandle handle) {
  auto tokenizer = std::unique_ptr<RustTokenizer>(new RustTokenizer(std::move(handle)));
  BufferGuard raw;
  RETURN_IF_ERROR(rust_call(
      [&](BatonBuffer* error) { return baton_tokenizer_entries(tokenizer->handle(), &raw.buffer, error); }));
  for (EntryReader reader(raw.view()); !reader.done();) {
    Entry entry;
    entry.special = reader.flag();
    entry.piece = reader.text();
    entry.bytes = reader.text();
    tokenizer->entries_.push_back(std::move(entry));
  }
  return tokenizer;
}

absl::StatusOr<std::unique_ptr<RustTokenizer>> RustTokenizer::from_json(std::string_view tokenizer_json) {
  BatonTokenizer* raw = nullptr;
  RETURN_IF_ERROR(rust_call(
      [&](BatonBuffer* error) { return baton_tokenizer_from_json(to_bytes(tokenizer_json), &raw, error); }));
  return wrap(TokenizerHandle(raw));
}

absl::StatusOr<std::unique_ptr<RustTokenizer>> RustTokenizer::from_gguf(const GgufFile& file) {
  const auto model = file.string(kModel);
  if (!model) return bad(kModel, "missing, or no string");
  ASSIGN_OR_RETURN(const auto tokens, string_list(file, "tokenizer.ggml.tokens"));
  if (tokens.empty()) return bad("tokenizer.ggml.tokens", "missing or empty");
  ASSIGN_OR_RETURN(const auto merges, string_list(file, "tokenizer.ggml.merges"));
  std::vector<float> scores;
  if (const auto* array = file.array("tokenizer.ggml.scores"))
    scores.assign(array->floats.begin(), array->floats.end());
  std::vector<int32_t> types;
  if (const auto* array = file.array("tokenizer.ggml.token_type")) {
    if (array->integers.size() != tokens.size())
      return bad("tokenizer.ggml.token_type",
                 "want one for each of the " + std::to_string(tokens.size()) + " tokens");
    types.assign(array->integers.begin(), array->integers.end());
  }
  // Llama's SentencePiece vocabularies have these ids even where the file does not say so.
  const bool llama = *model == "llama";
  BatonGgufSpec spec{};
  ASSIGN_OR_RETURN(spec.bos, id_key(file, "tokenizer.ggml.bos_token_id", llama ? 1 : -1, tokens.size()));
  ASSIGN_OR_RETURN(spec.eos, id_key(file, "tokenizer.ggml.eos_token_id", llama ? 2 : -1, tokens.size()));
  ASSIGN_OR_RETURN(spec.unknown,
                   id_key(file, "tokenizer.ggml.unknown_token_id", llama ? 0 : -1, tokens.size()));
  ASSIGN_OR_RETURN(spec.add_bos, flag_key(file, "tokenizer.ggml.add_bos_token"));
  ASSIGN_OR_RETURN(spec.add_eos, flag_key(file, "tokenizer.ggml.add_eos_token"));
  ASSIGN_OR_RETURN(spec.add_space_prefix, flag_key(file, "tokenizer.ggml.add_space_prefix"));
  spec.model = to_bytes(*model);
  spec.pre = to_bytes(file.string("tokenizer.ggml.pre").value_or("default"));  // old files have none
  spec.tokens = tokens.data();
  spec.token_count = tokens.size();
  spec.merges = merges.data();
  spec.merge_count = merges.size();
  spec.scores = scores.data();
  spec.score_count = scores.size();
  spec.types = types.data();
  spec.type_count = types.size();
  BatonTokenizer* raw = nullptr;
  RETURN_IF_ERROR(
      rust_call([&](BatonBuffer* error) { return baton_tokenizer_from_gguf(&spec, &raw, error); }));
  return wrap(TokenizerHandle(raw));
}

absl::StatusOr<std::vector<TokenId>> RustTokenizer::encode(std::string_view text,
                                                           EncodeOptions options) const {
  const uint32_t flags =
      (options.add_special ? kAddSpecial : 0) | (options.parse_special ? kParseSpecial : 0);
  BufferGuard ids;
  RETURN_IF_ERROR(rust_call([&](BatonBuffer* error) {
    return baton_encode_text(handle_.get(), to_bytes(text), flags, options.most_tokens, &ids.buffer, error);
  }));
  return to_ids(ids.view());
}

const RustTokenizer::Entry* RustTokenizer::entry(TokenId id) const {
  return id >= 0 && id < vocab_size() ? &entries_[static_cast<size_t>(id)] : nullptr;
}

std::string RustTokenizer::decode(std::span<const TokenId> ids, bool skip_special) const {
  std::string out;
  Utf8Stream utf8;
  for (const TokenId id : ids) {
    const Entry* e = entry(id);
    if (e == nullptr || (e->special && skip_special)) continue;
    utf8.append(e->special ? e->piece : e->bytes, out);
  }
  utf8.finish(out);
  return out;
}

std::string RustTokenizer::token_bytes(TokenId id) const {
  const Entry* e = entry(id);
  return e == nullptr ? "" : e->bytes;
}

std::string RustTokenizer::token_piece(TokenId id) const {
  const Entry* e = entry(id);
  return e == nullptr ? "" : e->piece;
}

bool RustTokenizer::is_special(TokenId id) const {
  const Entry* e = entry(id);
  return e != nullptr && e->special;
}

}  // namespace baton::text
