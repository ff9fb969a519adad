#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/chat_template.h"
#include "text/rust_handle.h"
#include "text/rust_tokenizer.h"

namespace baton::text {

// The ChatTemplate over the Rust library (minijinja). Immutable. Thread: any.
class RustChatTemplate final : public ChatTemplate {
 public:
  // `special_json`: an object of bos_token, eos_token, unk_token, pad_token as far as the model has them.
  static absl::StatusOr<std::unique_ptr<RustChatTemplate>> create(std::string_view source,
                                                                  std::string_view special_json);
  absl::StatusOr<std::string> render(std::string_view context_json) const override;
  const std::string& source() const override { return source_; }
  // Renders and tokenises so that special tokens come from the template only (text/rust/src/marks.rs has the
  // rule).
  absl::StatusOr<std::vector<TokenId>> encode(const RustTokenizer& tokenizer, std::string_view context_json,
                                              size_t most_tokens) const;

 private:
  RustChatTemplate(TemplateHandle handle, std::string_view source)
      : handle_(std::move(handle)), source_(source) {}
  TemplateHandle handle_;
  std::string source_;
};

}  // namespace baton::text
