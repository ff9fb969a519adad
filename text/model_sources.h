#pragma once

#include <string>

#include "text/model_text.h"

namespace baton::text {

// The two kinds of model that load_model_text() reads. Errors start with the file's path.
absl::StatusOr<ModelText> load_gguf_text(const std::string& path);
absl::StatusOr<ModelText> load_directory_text(const std::string& path);

// Appends an id that is valid and not yet in the list.
void add_end_token(ModelText& model, int64_t id);

// A prompt may hold any id that the tokenizer knows; one that the weights have no row for could not be
// computed. `rows`: of the embedding; 0 when it is not known here.
absl::Status check_vocabulary(const Tokenizer& tokenizer, int64_t rows);

// `status` with the place in front of its message.
inline absl::Status at(const std::string& place, const absl::Status& status) {
  return absl::Status(status.code(), place + ": " + std::string(status.message()));
}

}  // namespace baton::text
