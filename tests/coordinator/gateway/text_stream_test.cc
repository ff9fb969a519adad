#include "coordinator/gateway/text_stream.h"

#include <gtest/gtest.h>

#include "base/rng.h"
#include "tests/coordinator/gateway/fake_model.h"

namespace baton::coordinator {
namespace {

std::string run(StopMatcher& matcher, const std::vector<std::string>& pieces) {
  std::string text;
  for (const auto& p : pieces) text += matcher.push(p);
  return text + matcher.flush();
}

TEST(StopMatcher, HoldsBackWhatCouldBeAStop) {
  StopMatcher matcher({"END"}, false);
  EXPECT_EQ(matcher.push("say E"), "say ");
  EXPECT_EQ(matcher.push("N"), "");
  EXPECT_EQ(matcher.push("ERGY"), "ENERGY");
  EXPECT_EQ(matcher.push(" EN"), " ");
  EXPECT_EQ(matcher.push("D!"), "");
  EXPECT_EQ(matcher.found(), "END");
  EXPECT_EQ(matcher.push("more"), "");
}

TEST(StopMatcher, IncludesTheStopWhenAsked) {
  StopMatcher matcher({"END"}, true);
  EXPECT_EQ(run(matcher, {"a E", "N", "D b"}), "a END");
}

TEST(StopMatcher, TheFirstToEndWinsThenTheLonger) {
  StopMatcher shorter({"abc", "b"}, false);
  EXPECT_EQ(run(shorter, {"xabc"}), "xa");
  EXPECT_EQ(shorter.found(), "b");
  StopMatcher longer({"c", "abc"}, false);
  EXPECT_EQ(run(longer, {"xabc"}), "x");
  EXPECT_EQ(longer.found(), "abc");
}

TEST(StopMatcher, FlushGivesBackAnUnfinishedStop) {
  StopMatcher matcher({"stop here"}, false);
  EXPECT_EQ(run(matcher, {"do not stop"}), "do not stop");
  EXPECT_FALSE(matcher.found());
}

// Any cutting of any text gives what a search over the whole text gives.
TEST(StopMatcher, DoesNotDependOnThePieces) {
  const uint64_t seed = 77;
  SCOPED_TRACE("seed " + std::to_string(seed));
  Rng rng(seed);
  const auto word = [&](uint64_t longest) {
    std::string w;
    for (uint64_t n = 1 + rng.below(longest); n > 0; --n) w += static_cast<char>('a' + rng.below(2));
    return w;
  };
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> stops;
    for (uint64_t n = 1 + rng.below(3); n > 0; --n) stops.push_back(word(5));
    const bool include = rng.below(2) == 1;
    const std::string text = word(30);
    StopMatcher whole(stops, include), cut(stops, include);
    const std::string want = run(whole, {text});
    std::vector<std::string> pieces;
    for (size_t at = 0; at < text.size();) {
      const size_t n = 1 + rng.below(4);
      pieces.push_back(text.substr(at, n));
      at += n;
    }
    ASSERT_EQ(run(cut, pieces), want) << text;
    ASSERT_EQ(cut.found(), whole.found()) << text;
    if (!include && whole.found()) {
      for (const auto& s : stops) ASSERT_EQ(want.find(s), std::string::npos) << text;
    }
  }
}

std::vector<TokenOutput> tokens_of(std::string_view text) {
  std::vector<TokenOutput> out;
  for (const char c : text) out.push_back({.token = static_cast<unsigned char>(c)});
  return out;
}

TEST(TextStream, StopAcrossTokensCutsTokensToo) {
  const ByteTokenizer tokenizer;
  TextStream stream(tokenizer, {.stop = {"STOP"}});
  auto tokens = tokens_of("go ");
  tokens.push_back({.token = kStopHalf});
  EXPECT_EQ(stream.append(tokens).text, "go ");
  const auto delta = stream.append(tokens_of("OPxyz"));
  EXPECT_EQ(delta.text, "");
  EXPECT_EQ(delta.tokens, 2u);
  EXPECT_EQ(stream.token_count(), 6);
  EXPECT_EQ(stream.stop_string(), "STOP");
  EXPECT_EQ(stream.finish(), "");
}

TEST(TextStream, NoStopBeforeMinTokens) {
  const ByteTokenizer tokenizer;
  TextStream stream(tokenizer, {.stop = {"a"}, .min_tokens = 2});
  EXPECT_EQ(stream.append(tokens_of("aaba")).text, "aab");
  EXPECT_EQ(stream.stop_string(), "a");
}

TEST(TextStream, EndTokensAreNoText) {
  const ByteTokenizer tokenizer;
  const std::vector<TokenOutput> tokens = {{.token = 'a'}, {.token = 'b'}};
  TextStream plain(tokenizer, {.stop_token_ids = {'b'}});
  EXPECT_EQ(plain.append(tokens).text + plain.finish(), "a");
  TextStream included(tokenizer, {.include_stop = true, .stop_token_ids = {'b'}});
  EXPECT_EQ(included.append(tokens).text + included.finish(), "ab");
  TextStream shown(tokenizer, {.skip_special = false});
  EXPECT_EQ(shown.append(std::vector<TokenOutput>{{.token = kEnd}}).text, "<end>");
}

TEST(TextStream, NeverHalfACharacter) {
  const ByteTokenizer tokenizer;
  TextStream stream(tokenizer, {.stop = {"\xC3\xA9!"}});
  std::string text;
  for (const auto& t : tokens_of("\xC3\xA9\xE2\x82\xAC\xC3")) {
    const std::string piece = stream.append(std::vector{t}).text;
    EXPECT_EQ(to_utf8(piece), piece);
    text += piece;
  }
  EXPECT_EQ(text + stream.finish(), "\xC3\xA9\xE2\x82\xAC\xEF\xBF\xBD");
}

TEST(Logprobs, Chat) {
  const ByteTokenizer tokenizer;
  const std::vector<TokenOutput> tokens = {
      {.token = kHello, .logprob = -0.25f, .top = {{kHello, -0.25f, 0}, {0xC3, -INFINITY, 1}, {'x', -3, 2}}}};
  JsonWriter w;
  write_chat_logprobs(w, tokenizer, tokens, 2);
  EXPECT_EQ(w.text(),
            "{\"content\":[{\"token\":\" "
            "hello\",\"logprob\":-0.25,\"bytes\":[32,104,101,108,108,111],\"top_logprobs\":["
            "{\"token\":\" hello\",\"logprob\":-0.25,\"bytes\":[32,104,101,108,108,111]},"
            "{\"token\":\"\xEF\xBF\xBD\",\"logprob\":-9999,\"bytes\":[195]}]}]}");
}

TEST(Logprobs, CompletionsWithPrompt) {
  const ByteTokenizer tokenizer;
  const std::vector<TokenOutput> prompt = {{.token = 'h'}, {.token = 'i', .logprob = -1}};
  const std::vector<TokenOutput> tokens = {{.token = kHello, .logprob = -0.5f, .top = {{'y', -0.25f, 0}}}};
  JsonWriter w;
  size_t offset = 0;
  write_completion_logprobs(
      w, tokenizer, {.prompt = prompt, .tokens = tokens, .prompt_begins_text = true, .top = 1}, offset);
  EXPECT_EQ(w.text(),
            "{\"text_offset\":[0,1,2],\"token_logprobs\":[null,-1,-0.5],\"tokens\":[\"h\",\"i\",\" hello\"],"
            "\"top_logprobs\":[null,{\"i\":-1},{\"y\":-0.25,\" hello\":-0.5}]}");
  EXPECT_EQ(offset, 8u);
}

TEST(JsonWriter, StringsNumbersAndBrokenUtf8) {
  JsonWriter w;
  w.open('[')
      .value("a\"\\\n\x01/")
      .value(std::string_view("\xff\xE2\x82z\xED\xA0\x80", 7))
      .value(1.5)
      .value(0.1f);
  w.value(INFINITY * 1.0).value(std::nan("")).value(true).null().value(int64_t{-3}).close(']');
  EXPECT_EQ(
      w.text(),
      "[\"a\\\"\\\\\\n\\u0001/\",\"\xEF\xBF\xBD\xEF\xBF\xBDz\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\",1.5,0.1,"
      "1.7976931348623157e+308,null,true,null,-3]");
}

}  // namespace
}  // namespace baton::coordinator
