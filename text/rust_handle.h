#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/status.h"
#include "text/rust_abi.h"

namespace baton::text {

// What text/*.cc need around every call into the Rust library: owned results, errors as absl::Status.

struct BufferGuard {
  BatonBuffer buffer{nullptr, 0};
  BufferGuard() = default;
  BufferGuard(const BufferGuard&) = delete;
  BufferGuard& operator=(const BufferGuard&) = delete;
  ~BufferGuard() { baton_buffer_free(buffer); }
  std::string_view view() const { return {reinterpret_cast<const char*>(buffer.data), buffer.size}; }
};

inline BatonBytes to_bytes(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// Runs `call(&error)`; a code becomes a status with the library's text.
template <class Call>
absl::Status rust_call(Call call) {
  BufferGuard error;
  const int32_t code = call(&error.buffer);
  if (code == 0) return absl::OkStatus();
  const auto kind = code == 1   ? absl::StatusCode::kInvalidArgument
                    : code == 3 ? absl::StatusCode::kResourceExhausted
                    : code == 4 ? absl::StatusCode::kOutOfRange
                                : absl::StatusCode::kInternal;
  return absl::Status(kind, std::string(error.view()));
}

inline std::vector<TokenId> to_ids(std::string_view raw) {
  static_assert(sizeof(TokenId) == 4);
  std::vector<TokenId> ids(raw.size() / 4);
  if (!ids.empty()) std::memcpy(ids.data(), raw.data(), ids.size() * 4);
  return ids;
}

struct TokenizerDeleter {
  void operator()(BatonTokenizer* t) const { baton_tokenizer_free(t); }
};
using TokenizerHandle = std::unique_ptr<BatonTokenizer, TokenizerDeleter>;

struct TemplateDeleter {
  void operator()(BatonTemplate* t) const { baton_template_free(t); }
};
using TemplateHandle = std::unique_ptr<BatonTemplate, TemplateDeleter>;

}  // namespace baton::text
