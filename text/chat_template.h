#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"

namespace baton::text {

// A model's Jinja chat template, rendered as transformers' apply_chat_template does (minijinja with the same
// extensions). Templates are untrusted: fuel and output are bounded. Immutable. Thread: any.
class ChatTemplate {
 public:
  virtual ~ChatTemplate() = default;
  // `context_json`: an object with messages, and optionally tools, documents, add_generation_prompt and any
  // chat_template_kwargs. Key order is kept. bos_token/eos_token are filled in. raise_exception in the
  // template is kInvalidArgument with its message.
  virtual absl::StatusOr<std::string> render(std::string_view context_json) const = 0;
  virtual const std::string& source() const = 0;
};

}  // namespace baton::text
