#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "base/rng.h"
#include "tests/support/seed.h"
#include "tests/text/shared_models.h"
#include "text/utf8_stream.h"

namespace baton::text {
namespace {

std::string repaired(std::string_view bytes, size_t piece) {
  Utf8Stream utf8;
  std::string out;
  for (size_t at = 0; at < bytes.size(); at += piece) utf8.append(bytes.substr(at, piece), out);
  utf8.finish(out);
  return out;
}

TEST(Utf8Stream, RepairsAsUnicodeRecommends) {
  const std::pair<std::string, std::string> cases[] = {
      {"", ""},
      {"abc", "abc"},
      {"\xe2\x82\xac", "€"},
      {"\xf0\x9f\xa6\x99!", "🦙!"},
      {"\x80", "\uFFFD"},
      {"\xff\xfe", "\uFFFD\uFFFD"},
      {"\xc0\xaf", "\uFFFD\uFFFD"},                      // overlong
      {"\xe0\x80\xaf", "\uFFFD\uFFFD\uFFFD"},            // overlong
      {"\xed\xa0\x80", "\uFFFD\uFFFD\uFFFD"},            // surrogate
      {"\xf4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},  // beyond U+10FFFF
      {"\xe2\x82"
       "a",
       "\uFFFD"
       "a"},  // cut off: one mark for the maximal part
      {"\xf0\x9f\xa6", "\uFFFD"},
      {"\xe2\xe2\x82\xac", "\uFFFD€"},
      {"\xf0\x9f\xf0\x9f\xa6\x99", "\uFFFD🦙"},
  };
  for (const auto& [bytes, want] : cases)
    for (const size_t piece : {1, 2, 3, 100}) EXPECT_EQ(repaired(bytes, piece), want);
}

bool is_utf8(std::string_view text) { return repaired(text, 1) == text; }

uint64_t seed() {
  static const uint64_t seed = support::seed_or(11);
  return seed;
}

std::string random_text(Rng& rng) {
  std::string out;
  for (uint64_t n = rng.below(40); n > 0; --n) {
    constexpr uint32_t kTops[] = {0x7F, 0x7FF, 0xFFFF, 0x10FFFF};
    uint32_t c = 1 + static_cast<uint32_t>(rng.below(kTops[rng.below(4)]));
    if (c >= 0xD800 && c <= 0xDFFF) c = ' ';
    if (c < 0x80) {
      out += static_cast<char>(c);
    } else if (c < 0x800) {
      out += {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 63))};
    } else if (c < 0x10000) {
      out += {static_cast<char>(0xE0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 63)),
              static_cast<char>(0x80 | (c & 63))};
    } else {
      out += {static_cast<char>(0xF0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 63)),
              static_cast<char>(0x80 | (c >> 6 & 63)), static_cast<char>(0x80 | (c & 63))};
    }
  }
  return out;
}

void check_stream(const Tokenizer& tokenizer, const std::vector<TokenId>& ids, bool skip_special) {
  StreamDecoder decoder(tokenizer, skip_special);
  std::string all;
  for (const TokenId id : ids) {
    const std::string part = decoder.append(id);
    ASSERT_TRUE(is_utf8(part)) << "half a character was sent";
    all += part;
  }
  all += decoder.finish();
  ASSERT_EQ(all, tokenizer.decode(ids, skip_special));
}

// Bytes with a token of their own. SmolLM2 lacks 21; text that holds one of these loses it.
std::array<bool, 256> byte_tokens(const Tokenizer& tokenizer) {
  std::array<bool, 256> has{};
  for (TokenId id = 0; id < tokenizer.vocab_size(); ++id)
    if (const std::string bytes = tokenizer.token_bytes(id); bytes.size() == 1)
      has[static_cast<uint8_t>(bytes[0])] = true;
  return has;
}

constexpr const char* kModels[] = {"smollm2", "minimind2-small", "ggml-vocab/ggml-vocab-llama-spm.gguf",
                                   "ggml-vocab/ggml-vocab-gpt-2.gguf"};

TEST(StreamDecoder, RandomUnicodeComesBackPieceByPiece) {
  SKIP_WITHOUT_SHARED_MODELS();
  SCOPED_TRACE(::testing::Message() << "BATON_SEED=" << seed());
  for (const char* name : kModels) {
    SCOPED_TRACE(name);
    auto model = load_model_text(shared_models() + "/" + name);
    ASSERT_TRUE(model.ok()) << model.status();
    Rng rng(seed());
    const auto has = byte_tokens(*model->tokenizer);
    int spelled = 0;
    for (int round = 0; round < 300; ++round) {
      const std::string text = random_text(rng);
      const auto ids = model->tokenizer->encode(text, {.add_special = false, .parse_special = false});
      ASSERT_TRUE(ids.ok()) << ids.status();
      check_stream(*model->tokenizer, *ids, true);
      if (!std::ranges::all_of(text, [&](char c) { return has[static_cast<uint8_t>(c)]; })) continue;
      ++spelled;
      const std::string back = model->tokenizer->decode(*ids, true);
      ASSERT_TRUE(back == text || back == " " + text) << text;
    }
    EXPECT_GT(spelled, 30);
  }
}

// What a model may really produce: any ids in any order, special tokens in the middle of a character.
TEST(StreamDecoder, RandomIdsNeverSplitACharacter) {
  SKIP_WITHOUT_SHARED_MODELS();
  SCOPED_TRACE(::testing::Message() << "BATON_SEED=" << seed());
  for (const char* name : kModels) {
    SCOPED_TRACE(name);
    auto model = load_model_text(shared_models() + "/" + name);
    ASSERT_TRUE(model.ok()) << model.status();
    Rng rng(seed());
    for (int round = 0; round < 500; ++round) {
      std::vector<TokenId> ids(rng.below(60));
      // Half of them from the start of the vocabulary, where special tokens and single bytes are.
      for (auto& id : ids) {
        const auto bound = static_cast<uint64_t>(model->tokenizer->vocab_size());
        id = static_cast<TokenId>(rng.below(rng.below(2) == 0 ? 300 : bound));
      }
      check_stream(*model->tokenizer, ids, rng.below(2) == 0);
    }
  }
}

TEST(StreamDecoder, HoldsBackUnfinishedCharacters) {
  SKIP_WITHOUT_SHARED_MODELS();
  auto model = load_model_text(shared_models() + "/ggml-vocab/ggml-vocab-llama-spm.gguf");
  ASSERT_TRUE(model.ok()) << model.status();
  StreamDecoder decoder(*model->tokenizer, true);
  const TokenId byte0 = 3;  // <0x00>
  EXPECT_EQ(decoder.append(byte0 + 0xF0), "");
  EXPECT_EQ(decoder.append(byte0 + 0x9F), "");
  EXPECT_EQ(decoder.append(byte0 + 0xA6), "");
  EXPECT_EQ(decoder.append(byte0 + 0x99), "🦙");
  EXPECT_EQ(decoder.append(byte0 + 0xE2), "");
  StreamDecoder moved = std::move(decoder);
  EXPECT_EQ(moved.append(15043), "\uFFFD Hello");
  EXPECT_EQ(moved.append(1), "") << "a control token";
  EXPECT_EQ(moved.append(byte0 + 0xE2), "");
  EXPECT_EQ(moved.finish(), "\uFFFD");
}

}  // namespace
}  // namespace baton::text
