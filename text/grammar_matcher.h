#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "base/grammar.h"
#include "base/ids.h"
#include "base/status.h"
#include "text/tokenizer.h"

namespace baton::text {

class GrammarMatcher;

// Grammars come from users: bounds on what compiling and one step may cost. Besides, at most 500 references,
// and 1,500 lines of Lark. A bound reached is
// kResourceExhausted or kInvalidArgument with the library's text.
struct GrammarLimits {
  uint64_t source_bytes = Grammar::kMostBytes;
  uint64_t grammar_symbols = 20'000;
  uint64_t lexer_states = 50'000;
  uint64_t compile_fuel = 1'000'000;  // ~20 ms
  uint64_t step_fuel = 20'000;        // ~2 ms; the worst step of a large JSON schema takes a tenth
  uint64_t step_items = 30'000;
  std::chrono::milliseconds compile_time{1000};  // a compiler that takes longer is left to itself
};

// The vocabulary of a model as constrained decoding needs it, made once per model (90 ms and 3 MB for 49,152
// tokens). `logit_width` >= the
// tokenizer's vocabulary: masks have ceil(logit_width / 32) words, and tokens beyond the vocabulary are never
// allowed. Does not keep the tokenizer. Immutable. Thread: any.
class GrammarVocabulary {
 public:
  // The tokenizer must be one that load_model_text() made.
  static absl::StatusOr<std::unique_ptr<GrammarVocabulary>> create(const Tokenizer& tokenizer,
                                                                   int32_t logit_width,
                                                                   std::span<const TokenId> end_token_ids);
  ~GrammarVocabulary();
  // Limits of the language (llguidance): no lookaround in expressions, JSON properties in the schema's order,
  // and parts of JSON schema that are refused with a message rather than ignored.
  absl::StatusOr<std::unique_ptr<GrammarMatcher>> compile(const Grammar& grammar,
                                                          const GrammarLimits& limits = {}) const;
  size_t mask_words() const { return (static_cast<size_t>(logit_width_) + 31) / 32; }

 private:
  struct Handle;
  GrammarVocabulary(std::unique_ptr<Handle> handle, int32_t logit_width);
  std::unique_ptr<Handle> handle_;
  int32_t logit_width_;
};

// The state of one sequence. Per token: fill_mask(), sample inside it, accept(). Deterministic: the same
// tokens give the same masks, so a moved sequence is replayed from its ids. Outlives its vocabulary. Thread:
// its owner.
class GrammarMatcher {
 public:
  struct Handle;
  GrammarMatcher(std::unique_ptr<Handle> handle, size_t mask_words);
  ~GrammarMatcher();
  size_t mask_words() const { return mask_words_; }  // that fill_mask() wants
  // Bit i of word i/32: token i may come next. Once stopped, only end tokens are left.
  absl::Status fill_mask(std::span<uint32_t> words);
  // False: the grammar does not allow this token here; the state is as before.
  absl::StatusOr<bool> accept(TokenId id);
  // Takes back the last accepted tokens (speculation).
  absl::Status rollback(int tokens);
  // Nothing but an end token can follow.
  absl::StatusOr<bool> stopped();
  // The text so far is complete: an end token is allowed.
  absl::StatusOr<bool> accepting();
  absl::StatusOr<std::unique_ptr<GrammarMatcher>> copy() const;

 private:
  std::unique_ptr<Handle> handle_;
  size_t mask_words_;
};

}  // namespace baton::text
