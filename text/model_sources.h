#pragma once

#include <string>

#include "text/model_text.h"

namespace baton::text {

// The two kinds of model that load_model_text() reads. Errors start with the file's path.
absl::StatusOr<ModelText> load_gguf_text(const std::string& path);
absl::StatusOr<ModelText> load_directory_text(const std::string& path);

// Appends an id that is valid and not yet in the list.
void add_end_token(ModelText& model, int64_t id);

// Notes how many rows the embedding has (0: not known here), and refuses a tokenizer that makes ids without a
// row from ordinary text. Special tokens behind the last row are let through: fine-tuned models often carry a
// padding token that their weights never got a row for, and nobody can write one (ModelText::vocab_size).
absl::Status set_embedding_rows(ModelText& model, int64_t rows);

// `status` with the place in front of its message.
inline absl::Status at(const std::string& place, const absl::Status& status) {
  return absl::Status(status.code(), place + ": " + std::string(status.message()));
}

}  // namespace baton::text
