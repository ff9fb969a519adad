#pragma once

#include <cstddef>
#include <cstdint>

// The C ABI of the Rust static library in text/rust (src/lib.rs is the other side; field orders must agree).
// Functions that can fail return 0, or a code (1 invalid, 2 internal: a caught panic, 3 a bound was reached,
// 4 more than `most_tokens` tokens, as far as that was seen beforehand)
// with the text in *error, which the caller frees. Handles: tokenizers, templates and vocabularies are
// immutable and may be used from any thread; a matcher belongs to one thread at a time. Only text/*.cc
// include this.
extern "C" {

struct BatonBytes {  // the caller's
  const uint8_t* data;
  size_t size;
};
struct BatonBuffer {  // the library's; token ids are uint32_t in machine order
  uint8_t* data;
  size_t size;
};
void baton_buffer_free(BatonBuffer buffer);

struct BatonTokenizer;
struct BatonGgufSpec {
  BatonBytes model;
  BatonBytes pre;
  const BatonBytes* tokens;
  size_t token_count;
  const BatonBytes* merges;
  size_t merge_count;
  const float* scores;
  size_t score_count;
  const int32_t* types;
  size_t type_count;
  int64_t bos;  // -1: none
  int64_t eos;
  int64_t unknown;
  int32_t add_bos;  // -1: the file does not say
  int32_t add_eos;
  int32_t add_space_prefix;
};
int32_t baton_tokenizer_from_json(BatonBytes json, BatonTokenizer** out, BatonBuffer* error);
int32_t baton_tokenizer_from_gguf(const BatonGgufSpec* spec, BatonTokenizer** out, BatonBuffer* error);
void baton_tokenizer_free(BatonTokenizer* tokenizer);
// Per token: u8 special, u32 length, piece, u32 length, bytes.
int32_t baton_tokenizer_entries(const BatonTokenizer* tokenizer, BatonBuffer* out, BatonBuffer* error);
// flags: 1 add_special, 2 parse_special. most_tokens: 0 for any number.
int32_t baton_encode_text(const BatonTokenizer* tokenizer, BatonBytes text, uint32_t flags,
                          size_t most_tokens, BatonBuffer* ids, BatonBuffer* error);

struct BatonTemplate;
// special: a JSON object of bos_token, eos_token and so on.
int32_t baton_template_new(BatonBytes source, BatonBytes special, BatonTemplate** out, BatonBuffer* error);
void baton_template_free(BatonTemplate* chat_template);
// now: seconds since 1970, for strftime_now.
int32_t baton_template_render(const BatonTemplate* chat_template, BatonBytes context, int64_t now,
                              BatonBuffer* out, BatonBuffer* error);
int32_t baton_encode_chat(const BatonTemplate* chat_template, const BatonTokenizer* tokenizer,
                          BatonBytes context, int64_t now, size_t most_tokens, BatonBuffer* ids,
                          BatonBuffer* error);

struct BatonVocabulary;
struct BatonMatcher;
struct BatonGrammarLimits {
  uint64_t source_bytes;
  uint64_t grammar_symbols;
  uint64_t lexer_states;
  uint64_t compile_fuel;
  uint64_t step_fuel;
  uint64_t step_items;
  uint64_t compile_ms;
};
int32_t baton_vocabulary_new(const BatonTokenizer* tokenizer, size_t width, const uint32_t* end,
                             size_t end_count, BatonVocabulary** out, BatonBuffer* error);
void baton_vocabulary_free(BatonVocabulary* vocabulary);
int32_t baton_matcher_new(const BatonVocabulary* vocabulary, BatonBytes kind, BatonBytes source,
                          const BatonGrammarLimits* limits, BatonMatcher** out, BatonBuffer* error);
int32_t baton_matcher_copy(const BatonMatcher* matcher, BatonMatcher** out, BatonBuffer* error);
void baton_matcher_free(BatonMatcher* matcher);
int32_t baton_matcher_mask(BatonMatcher* matcher, uint32_t* words, size_t count, BatonBuffer* error);
int32_t baton_matcher_accept(BatonMatcher* matcher, uint32_t id, int32_t* taken, BatonBuffer* error);
int32_t baton_matcher_rollback(BatonMatcher* matcher, size_t tokens, BatonBuffer* error);
int32_t baton_matcher_state(BatonMatcher* matcher, int32_t* stopped, int32_t* accepting, BatonBuffer* error);
}
