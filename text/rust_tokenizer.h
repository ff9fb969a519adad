#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/gguf_file.h"
#include "text/rust_handle.h"
#include "text/tokenizer.h"

namespace baton::text {

// The Tokenizer over the Rust library. Encoding happens there; what tokens mean (pieces, bytes, special or
// not) is copied here once, so that decoding never crosses the border. Immutable. Thread: any.
class RustTokenizer final : public Tokenizer {
 public:
  // Errors do not name the file: the caller does.
  static absl::StatusOr<std::unique_ptr<RustTokenizer>> from_json(std::string_view tokenizer_json);
  static absl::StatusOr<std::unique_ptr<RustTokenizer>> from_gguf(const GgufFile& file);

  absl::StatusOr<std::vector<TokenId>> encode(std::string_view text, EncodeOptions options) const override;
  std::string decode(std::span<const TokenId> ids, bool skip_special) const override;
  std::string token_bytes(TokenId id) const override;
  std::string token_piece(TokenId id) const override;
  bool is_special(TokenId id) const override;
  int32_t vocab_size() const override { return static_cast<int32_t>(entries_.size()); }

  const BatonTokenizer* handle() const { return handle_.get(); }

 private:
  struct Entry {
    std::string piece;
    std::string bytes;
    bool special = false;
  };
  explicit RustTokenizer(TokenizerHandle handle) : handle_(std::move(handle)) {}
  static absl::StatusOr<std::unique_ptr<RustTokenizer>> wrap(TokenizerHandle handle);
  const Entry* entry(TokenId id) const;

  TokenizerHandle handle_;
  std::vector<Entry> entries_;
};

}  // namespace baton::text
