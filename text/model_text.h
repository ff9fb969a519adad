#pragma once

#include <memory>
#include <string>
#include <vector>

#include "text/chat_template.h"
#include "text/reasoning.h"
#include "text/tokenizer.h"
#include "text/tool_calls.h"

namespace baton::text {

// All that the coordinator reads of a model: its tokenizer, template and special ids. Immutable. Thread: any.
struct ModelText {
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;  // null: the model has none
  std::vector<TokenId> end_token_ids;           // eos, eot, eom of the file and generation_config.json
  std::string bos_token;
  std::string eos_token;
  int32_t context_tokens = 0;                                 // what the model was trained for; 0 = unknown
  int64_t embedding_rows = 0;                                 // of the weights; 0 = not known here
  std::string default_name;                                   // general.name or the file's stem
  ToolSyntax tool_syntax = ToolSyntax::kNone;                 // of the calls that the template teaches
  std::vector<TokenId> tool_marks;                            // control tokens that belong to them
  ReasoningSyntax reasoning_syntax = ReasoningSyntax::kNone;  // of thoughts before the answer
  std::vector<TokenId> reasoning_marks;

  // The ids that prompts may hold are below it. The tokenizer may know a few special ones more.
  int32_t vocab_size() const;

  // A chat request to token ids: the template is rendered, its own text may hold special tokens, message
  // contents may not (a user who writes <|im_end|> gets ordinary text). The rule and its limits:
  // text/rust/src/marks.rs. kFailedPrecondition when the model has no template. As in transformers, BOS comes
  // from the template or not at all.
  // most_tokens as in Tokenizer::EncodeOptions.
  absl::StatusOr<std::vector<TokenId>> encode_chat(std::string_view context_json,
                                                   size_t most_tokens = 0) const;
};

// `path`: a GGUF file, or a Hugging Face directory (tokenizer.json, tokenizer_config.json, config.json,
// generation_config.json, chat_template.jinja). Errors name file and key.
absl::StatusOr<ModelText> load_model_text(const std::string& path);

}  // namespace baton::text
