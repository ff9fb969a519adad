#include "cli/bench/load/word_prompts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace baton::load {
namespace {

const std::vector<std::string> kWords = {"alpha", "beta", "gamma", "delta", "eta", "iota", "kappa", "mu"};

int count_words(const std::string& text) { return static_cast<int>(std::ranges::count(text, ' ')); }

TEST(WordPrompts, CountsItsTokens) {
  const WordPrompts prompts(kWords, 1);
  for (const int tokens : {2, 3, 128, 1500}) EXPECT_EQ(count_words(prompts.text(7, tokens)) + 1, tokens);
  EXPECT_EQ(count_words(WordPrompts(kWords, 0).text(7, 32)), 32);
}

TEST(WordPrompts, IsAFunctionOfTheSeed) {
  const WordPrompts prompts(kWords, 0);
  EXPECT_EQ(prompts.text(7, 64), prompts.text(7, 64));
  std::set<std::string> texts;
  for (uint64_t seed = 0; seed < 100; ++seed) texts.insert(prompts.text(seed, 64));
  EXPECT_EQ(texts.size(), 100u);
}

TEST(WordPrompts, BeginsWithTheSameWord) {
  // What stands around a prompt may depend on its first word: it must not change with the seed.
  const WordPrompts prompts(kWords, 0);
  for (uint64_t seed = 0; seed < 20; ++seed) EXPECT_TRUE(prompts.text(seed, 4).starts_with(" alpha "));
}

TEST(WordPrompts, SharesAPrefix) {
  const WordPrompts prompts(kWords, 2);
  const std::string a = prompts.text(5, 100, 1, 32), b = prompts.text(5, 100, 2, 32);
  const std::string prefix = prompts.text(5, 100);
  EXPECT_TRUE(a.starts_with(prefix) && b.starts_with(prefix));
  EXPECT_NE(a, b);
  EXPECT_EQ(count_words(a) + 2, 132);
}

TEST(WordPrompts, CandidatesAreDifferentWords) {
  std::set<std::string_view> seen;
  for (const std::string_view word : candidate_words()) {
    EXPECT_TRUE(seen.insert(word).second) << word;
    EXPECT_TRUE(std::ranges::all_of(word, [](char c) { return c >= 'a' && c <= 'z'; })) << word;
  }
  EXPECT_GE(seen.size(), 200u);
}

}  // namespace
}  // namespace baton::load
