#pragma once

#include <string>

#include "base/status.h"
#include "cli/bench/load/word_prompts.h"

namespace baton::cli {

// The words that are one token each in the model that `address` serves, by its own tokenizer, and how many
// tokens stand around every prompt. kFailedPrecondition when fewer than 8 of the candidates are.
absl::StatusOr<load::WordPrompts> server_words(const std::string& address);

}  // namespace baton::cli
