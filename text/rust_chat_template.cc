#include "text/rust_chat_template.h"

#include <chrono>

namespace baton::text {
namespace {

// What strftime_now in a template sees.
int64_t unix_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

absl::StatusOr<std::unique_ptr<RustChatTemplate>> RustChatTemplate::create(std::string_view source,
                                                                           std::string_view special_json) {
  BatonTemplate* raw = nullptr;
  RETURN_IF_ERROR(rust_call([&](BatonBuffer* error) {
    return baton_template_new(to_bytes(source), to_bytes(special_json), &raw, error);
  }));
  return std::unique_ptr<RustChatTemplate>(new RustChatTemplate(TemplateHandle(raw), source));
}

absl::StatusOr<std::string> RustChatTemplate::render(std::string_view context_json) const {
  BufferGuard out;
  RETURN_IF_ERROR(rust_call([&](BatonBuffer* error) {
    return baton_template_render(handle_.get(), to_bytes(context_json), unix_seconds(), &out.buffer, error);
  }));
  return std::string(out.view());
}

absl::StatusOr<std::vector<TokenId>> RustChatTemplate::encode(const RustTokenizer& tokenizer,
                                                              std::string_view context_json,
                                                              size_t most_tokens) const {
  BufferGuard ids;
  RETURN_IF_ERROR(rust_call([&](BatonBuffer* error) {
    return baton_encode_chat(handle_.get(), tokenizer.handle(), to_bytes(context_json), unix_seconds(),
                             most_tokens, &ids.buffer, error);
  }));
  return to_ids(ids.view());
}

}  // namespace baton::text
