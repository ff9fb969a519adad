#include "text/grammar_matcher.h"

#include <string>
#include <utility>
#include <vector>

#include "text/rust_handle.h"
#include "text/rust_tokenizer.h"

namespace baton::text {

struct GrammarVocabulary::Handle {
  BatonVocabulary* raw = nullptr;
  ~Handle() { baton_vocabulary_free(raw); }
};

struct GrammarMatcher::Handle {
  BatonMatcher* raw = nullptr;
  ~Handle() { baton_matcher_free(raw); }
};

namespace {

std::string_view kind_name(GrammarKind kind) {
  switch (kind) {
    case GrammarKind::kNone:
      return "none";
    case GrammarKind::kJsonSchema:
      return "json_schema";
    case GrammarKind::kRegex:
      return "regex";
    case GrammarKind::kLark:
      return "lark";
  }
  return "";
}

struct MatcherState {
  int32_t stopped = 0;
  int32_t accepting = 0;
};

absl::StatusOr<MatcherState> state_of(BatonMatcher* matcher) {
  MatcherState state;
  RETURN_IF_ERROR(rust_call([&](BatonBuffer* error) {
    return baton_matcher_state(matcher, &state.stopped, &state.accepting, error);
  }));
  return state;
}

}  // namespace

GrammarVocabulary::GrammarVocabulary(std::unique_ptr<Handle> handle, int32_t logit_width)
    : handle_(std::move(handle)), logit_width_(logit_width) {}
GrammarVocabulary::~GrammarVocabulary() = default;

absl::StatusOr<std::unique_ptr<GrammarVocabulary>> GrammarVocabulary::create(
    const Tokenizer& tokenizer, int32_t logit_width, std::span<const TokenId> end_token_ids) {
  const auto* rust = dynamic_cast<const RustTokenizer*>(&tokenizer);
  if (rust == nullptr) return absl::InvalidArgumentError("grammar: want a tokenizer of load_model_text()");
  if (logit_width < 0) return absl::InvalidArgumentError("grammar: a negative logit width");
  const std::vector<uint32_t> end(end_token_ids.begin(), end_token_ids.end());
  auto handle = std::make_unique<Handle>();
  RETURN_IF_ERROR(rust_call([&](BatonBuffer* error) {
    return baton_vocabulary_new(rust->handle(), static_cast<size_t>(logit_width), end.data(), end.size(),
                                &handle->raw, error);
  }));
  return std::unique_ptr<GrammarVocabulary>(new GrammarVocabulary(std::move(handle), logit_width));
}

absl::StatusOr<std::unique_ptr<GrammarMatcher>> GrammarVocabulary::compile(
    const Grammar& grammar, const GrammarLimits& limits) const {
  const BatonGrammarLimits bounds{limits.source_bytes,
                                  limits.grammar_symbols,
                                  limits.lexer_states,
                                  limits.compile_fuel,
                                  limits.step_fuel,
                                  limits.step_items,
                                  static_cast<uint64_t>(limits.compile_time.count())};
  auto handle = std::make_unique<GrammarMatcher::Handle>();
  RETURN_IF_ERROR(rust_call([&](BatonBuffer* error) {
    return baton_matcher_new(handle_->raw, to_bytes(kind_name(grammar.kind)), to_bytes(grammar.source),
                             &bounds, &handle->raw, error);
  }));
  return std::make_unique<GrammarMatcher>(std::move(handle), mask_words());
}

GrammarMatcher::GrammarMatcher(std::unique_ptr<Handle> handle, size_t mask_words)
    : handle_(std::move(handle)), mask_words_(mask_words) {}
GrammarMatcher::~GrammarMatcher() = default;

absl::Status GrammarMatcher::fill_mask(std::span<uint32_t> words) {
  return rust_call([&](BatonBuffer* error) {
    return baton_matcher_mask(handle_->raw, words.data(), words.size(), error);
  });
}

absl::StatusOr<bool> GrammarMatcher::accept(TokenId id) {
  if (id < 0) return false;
  int32_t taken = 0;
  RETURN_IF_ERROR(rust_call([&](BatonBuffer* error) {
    return baton_matcher_accept(handle_->raw, static_cast<uint32_t>(id), &taken, error);
  }));
  return taken != 0;
}

absl::Status GrammarMatcher::rollback(int tokens) {
  if (tokens < 0) return absl::InvalidArgumentError("grammar: rollback of a negative number of tokens");
  return rust_call([&](BatonBuffer* error) {
    return baton_matcher_rollback(handle_->raw, static_cast<size_t>(tokens), error);
  });
}

absl::StatusOr<bool> GrammarMatcher::stopped() {
  ASSIGN_OR_RETURN(const auto state, state_of(handle_->raw));
  return state.stopped != 0;
}

absl::StatusOr<bool> GrammarMatcher::accepting() {
  ASSIGN_OR_RETURN(const auto state, state_of(handle_->raw));
  return state.accepting != 0;
}

absl::StatusOr<std::unique_ptr<GrammarMatcher>> GrammarMatcher::copy() const {
  auto handle = std::make_unique<Handle>();
  RETURN_IF_ERROR(
      rust_call([&](BatonBuffer* error) { return baton_matcher_copy(handle_->raw, &handle->raw, error); }));
  return std::make_unique<GrammarMatcher>(std::move(handle), mask_words_);
}

}  // namespace baton::text
