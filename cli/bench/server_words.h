#pragma once

#include <string>

#include "base/status.h"
#include "cli/bench/load/word_prompts.h"
#include "cli/cluster/http_client.h"

namespace baton::cli {

// The words that are one token each in the model that `server` serves, by its own tokenizer, and how many
// tokens stand around every prompt. kFailedPrecondition when fewer than 8 of the candidates are.
absl::StatusOr<load::WordPrompts> server_words(const ServerPlace& server);

}  // namespace baton::cli
