#pragma once

#include <optional>
#include <string_view>

#include "base/grammar.h"
#include "text/model_text.h"

namespace baton::text {

// `answer` behind thoughts in the form of `model.reasoning_syntax` (not kNone): what a ReasoningReader of it
// calls content is a sentence of `answer`. Of thoughts nothing is held but their end; up to four spaces or
// line ends may follow it. Marks that are control tokens of the model are those tokens (</think> as token 9):
//
//   start: thoughts gap answer | answer
//   thoughts: "<think>" THOUGHT <[9]>
//   ...
//
// `open`: the prompt ends inside, so there are thoughts. nullopt for Lark that a client wrote (`is_own`:
// false), whose rules have names of their own.
std::optional<Grammar> behind_thoughts(const ModelText& model, bool open, const Grammar& answer, bool is_own);

}  // namespace baton::text
