// Tool calls in the text of an answer: goldens for each family, cut at every byte, and random texts.
#include "text/tool_calls.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "base/cat.h"
#include "base/rng.h"
#include "tests/support/seed.h"
#include "tests/text/shared_models.h"

namespace baton::text {
namespace {

struct Whole {
  std::string content;
  std::vector<ToolCallPiece> calls;  // each in one piece
  int ended = 0;
  bool operator==(const Whole&) const = default;
};

void PrintTo(const Whole& w, std::ostream* out) {
  *out << "content \"" << w.content << "\", " << w.ended << " ended";
  for (const auto& c : w.calls) *out << ", " << c.index << " " << c.name << " " << c.arguments;
}

void add(Whole& out, const ToolText& said) {
  out.content += said.content;
  for (const ToolCallPiece& piece : said.calls) {
    if (!piece.name.empty()) {
      EXPECT_EQ(piece.index, static_cast<int>(out.calls.size()));
      out.calls.push_back({.index = piece.index, .name = piece.name, .arguments = ""});
    }
    ASSERT_FALSE(out.calls.empty());
    EXPECT_EQ(piece.index, out.calls.back().index) << "only the last call goes on";
    out.calls.back().arguments += piece.arguments;
  }
}

Whole read(ToolSyntax syntax, const std::vector<std::string_view>& pieces) {
  ToolCallReader reader(syntax);
  Whole out;
  for (const std::string_view piece : pieces) add(out, reader.push(piece));
  add(out, reader.finish());
  EXPECT_EQ(reader.begun(), static_cast<int>(out.calls.size()));
  EXPECT_LE(reader.ended(), reader.begun());
  out.ended = reader.ended();
  return out;
}

std::vector<std::string_view> single_bytes(std::string_view text) {
  std::vector<std::string_view> out;
  for (size_t i = 0; i < text.size(); ++i) out.push_back(text.substr(i, 1));
  return out;
}

struct Golden {
  ToolSyntax syntax;
  std::string text;
  std::string content;
  std::vector<std::pair<std::string, std::string>> calls;  // name, arguments
  int unfinished = 0;
};

const Golden kGoldens[] = {
    // Hermes, Qwen
    {ToolSyntax::kTags,
     "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>",
     "",
     {{"f", "{\"a\": 1}"}}},
    {ToolSyntax::kTags,
     " I look.\n\n<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>",
     " I look.",
     {{"f", "{}"}}},
    {ToolSyntax::kTags,
     "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"q\": \"a } \\\" </tool_call> "
     "b\"}}\n</tool_call>\n<tool_call>\n"
     "{\"arguments\": {\"x\": [1, {\"y\": null}]}, \"name\": \"g.h-1\"}\n</tool_call>\nDone.\n",
     "Done.\n",
     {{"f", "{\"q\": \"a } \\\" </tool_call> b\"}"}, {"g.h-1", "{\"x\": [1, {\"y\": null}]}"}}},
    {ToolSyntax::kTags, "<tool_call>{\"name\": \"f\"}</tool_call>", "", {{"f", "{}"}}},
    {ToolSyntax::kTags, "<tool_call>{\"name\": \"f\", \"arguments\": null}</tool_call>", "", {{"f", "{}"}}},
    {ToolSyntax::kTags,
     "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 2}\"}</tool_call>",
     "",
     {{"f", "{\"a\": 2}"}}},
    {ToolSyntax::kTags,
     "<tool_call>{\"id\": 7, \"type\": \"function\", \"name\": \"f\\u00e9\", \"arguments\": {\"ä\": \"ö\"}, "
     "\"x\": {\"name\": \"g\"}}</tool_call>",
     "",
     {{"fé", "{\"ä\": \"ö\"}"}}},
    {ToolSyntax::kTags,
     "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"lon",
     "",
     {{"f", "{\"a\": \"lon"}},
     1},
    {ToolSyntax::kTags,
     "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": [1}}</tool_call>",
     "}}</tool_call>",
     {{"f", "{\"a\": [1"}},
     1},
    {ToolSyntax::kTags,
     "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}</tool",
     "",
     {{"f", "{\"a\": 1}"}}},
    {ToolSyntax::kTags, "a <tool_call>\nno json</tool_call> b ", "a <tool_call>\nno json</tool_call> b ", {}},
    {ToolSyntax::kTags, "<tool_call><tool_call>{\"name\": \"f\"}</tool_call>", "<tool_call>", {{"f", "{}"}}},
    {ToolSyntax::kTags, "a < b <tool_ <<tool_call", "a < b <tool_ <<tool_call", {}},
    {ToolSyntax::kTags,
     "<tool_call>{\"arguments\": {\"a\": 1}}</tool_call>",
     "<tool_call>{\"arguments\": {\"a\": 1}}</tool_call>",
     {}},
    {ToolSyntax::kTags,
     "<tool_call>{\"name\": 7, \"arguments\": {}}",
     "<tool_call>{\"name\": 7, \"arguments\": {}}",
     {}},
    {ToolSyntax::kTags, "plain text, \n two lines\n", "plain text, \n two lines\n", {}},
    {ToolSyntax::kTags, "", "", {}},
    // Llama 3
    {ToolSyntax::kObject, "{\"name\": \"f\", \"parameters\": {\"a\": \"b\"}}", "", {{"f", "{\"a\": \"b\"}"}}},
    {ToolSyntax::kObject,
     "\n<|python_tag|>{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {\"n\": "
     "-1.5}}",
     "",
     {{"f", "{}"}, {"g", "{\"n\": -1.5}"}}},
    {ToolSyntax::kObject,
     "{\"type\": \"function\", \"name\": \"f\", \"parameters\": {\"a\": 1}}\n{\"name\": \"g\", "
     "\"parameters\": {}}",
     "",
     {{"f", "{\"a\": 1}"}, {"g", "{}"}}},
    {ToolSyntax::kObject, "{\"answer\": 42}", "{\"answer\": 42}", {}},
    {ToolSyntax::kObject,
     "Use {\"name\": \"f\", \"parameters\": {}}",
     "Use {\"name\": \"f\", \"parameters\": {}}",
     {}},
    {ToolSyntax::kObject,
     "<|python_tag|>brave.call(query=\"x\")",
     "<|python_tag|>brave.call(query=\"x\")",
     {}},
    {ToolSyntax::kObject, "<|python", "<|python", {}},
    {ToolSyntax::kObject, "  \n", "  \n", {}},
    // Mistral
    {ToolSyntax::kList,
     "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": 1}}, {\"name\": \"g\", \"arguments\": {}, "
     "\"id\": \"x\"}]",
     "",
     {{"f", "{\"a\": 1}"}, {"g", "{}"}}},
    {ToolSyntax::kList, "Yes. [TOOL_CALLS]f[ARGS]{\"a\": [\"]\"]}", "Yes.", {{"f", "{\"a\": [\"]\"]}"}}},
    {ToolSyntax::kList,
     "[TOOL_CALLS]f[CALL_ID]abc123XYZ[ARGS]{\"a\": 1}[TOOL_CALLS]g{\"b\": 2}",
     "",
     {{"f", "{\"a\": 1}"}, {"g", "{\"b\": 2}"}}},
    {ToolSyntax::kList, "[TOOL_CALLS]{\"name\": \"f\", \"arguments\": {}} ok", "ok", {{"f", "{}"}}},
    {ToolSyntax::kList, "[TOOL_CALLS][1, 2]", "[TOOL_CALLS][1, 2]", {}},
    {ToolSyntax::kList, "[TOOL_CALLS] hello world", "[TOOL_CALLS] hello world", {}},
    {ToolSyntax::kList, "[TOOL_CALLS]f[NO]{}", "[TOOL_CALLS]f[NO]{}", {}},
    {ToolSyntax::kList, "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}},", "", {{"f", "{}"}}},
    {ToolSyntax::kList, "a [b] [TOOL", "a [b] [TOOL", {}},
};

TEST(ToolCalls, GoldensCutAtEveryByte) {
  for (const Golden& golden : kGoldens) {
    SCOPED_TRACE(golden.text);
    Whole want{.content = golden.content, .calls = {}};
    for (const auto& [name, arguments] : golden.calls)
      want.calls.push_back(
          {.index = static_cast<int>(want.calls.size()), .name = name, .arguments = arguments});
    want.ended = static_cast<int>(want.calls.size()) - golden.unfinished;
    const std::string_view text = golden.text;
    EXPECT_EQ(read(golden.syntax, single_bytes(text)), want);
    for (size_t cut = 0; cut <= text.size(); ++cut)
      ASSERT_EQ(read(golden.syntax, {text.substr(0, cut), text.substr(cut)}), want) << "cut at " << cut;
  }
}

// Each character is looked at once: with a look back at all of them this takes minutes.
TEST(ToolCalls, AMegabyteOfSpacesBeforeACall) {
  const std::string call = "{\"name\": \"f\", \"parameters\": {}}";
  for (const auto syntax : {ToolSyntax::kTags, ToolSyntax::kObject, ToolSyntax::kList}) {
    ToolCallReader reader(syntax);
    for (int i = 0; i < 1 << 20; ++i) EXPECT_EQ(reader.push(" ").content, "");
    const ToolText said = reader.push(call);
    EXPECT_EQ(said.calls.size(), syntax == ToolSyntax::kObject ? 1u : 0u);
    EXPECT_EQ(said.content.size(), syntax == ToolSyntax::kObject ? 0u : (1u << 20) + call.size());
  }
}

TEST(ToolCalls, ACallIsToldAsSoonAsItsNameIsKnown) {
  ToolCallReader reader(ToolSyntax::kTags);
  EXPECT_EQ(reader.push("Wait.\n<tool_").content, "Wait.");
  const ToolText begun = reader.push("call>{\"name\": \"f\", \"arguments\": {\"a\"");
  EXPECT_THAT(begun.calls, ::testing::ElementsAre(ToolCallPiece{0, "f", "{\"a\""}));
  const ToolText more = reader.push(": 1}}</tool_call>");
  EXPECT_THAT(more.calls, ::testing::ElementsAre(ToolCallPiece{0, "", ": 1}"}));
  EXPECT_EQ(reader.ended(), 1);
}

// Random texts of fragments that matter: the result does not depend on the cuts, and without calls
// nothing of the text is missing.
TEST(ToolCalls, RandomTexts) {
  const std::vector<std::string> kFragments = {"<tool_call>",
                                               "</tool_call>",
                                               "[TOOL_CALLS]",
                                               "[ARGS]",
                                               "[CALL_ID]",
                                               "<|python_tag|>",
                                               "{",
                                               "}",
                                               "[",
                                               "]",
                                               "\"",
                                               "\\",
                                               ",",
                                               ":",
                                               ";",
                                               " ",
                                               "\n",
                                               "\"name\"",
                                               "\"arguments\"",
                                               "\"parameters\"",
                                               "f",
                                               "1",
                                               "null",
                                               "\"f\"",
                                               "<",
                                               "{\"name\": \"f\", \"arguments\": {",
                                               "}}",
                                               "é"};
  const uint64_t seed = support::seed_or(11);
  Rng rng(seed);
  int with_calls = 0;
  for (int round = 0; round < 20000; ++round) {
    const auto syntax = static_cast<ToolSyntax>(static_cast<int>(ToolSyntax::kTags) + rng.below(3));
    std::string text;
    for (uint64_t n = rng.below(16); n > 0; --n) text += kFragments[rng.below(kFragments.size())];
    SCOPED_TRACE(cat("seed ", seed, " round ", round, ": ", text));
    const Whole want = read(syntax, {text});
    with_calls += !want.calls.empty();
    if (want.calls.empty()) {
      ASSERT_EQ(want.content, text);
    }
    ASSERT_EQ(read(syntax, single_bytes(text)), want);
    const size_t cut = rng.below(text.size() + 1);
    ASSERT_EQ(read(syntax, {std::string_view(text).substr(0, cut), std::string_view(text).substr(cut)}),
              want);
    if (::testing::Test::HasFailure()) return;
  }
  EXPECT_GT(with_calls, 100);
}

TEST(ToolCalls, SyntaxOfATemplate) {
  EXPECT_EQ(tool_syntax("{{ messages }} <tool_call>"), ToolSyntax::kNone);
  EXPECT_EQ(tool_syntax("{{ toolset }} {{ my_tools }} {{ tools2 }}"), ToolSyntax::kNone);
  EXPECT_EQ(tool_syntax("{% if tools %}"), ToolSyntax::kUnknown);
  EXPECT_EQ(tool_syntax("{% if tools %} <tool_call><function=f>"), ToolSyntax::kUnknown);
  EXPECT_EQ(
      tool_syntax("{% if tools is not none %}Respond in the format {\"name\": function name, \"parameters\": "
                  "dictionary of argument name and its value}."),
      ToolSyntax::kObject);
  EXPECT_EQ(tool_syntax("{{ tools }} {{ '<|python_tag|>' }}"), ToolSyntax::kObject);
}

TEST(ToolCalls, SyntaxOfRealTemplates) {
  const std::string folder = shared_models() + "/chat/";
  const std::pair<const char*, ToolSyntax> kTemplates[] = {{"qwen2.5", ToolSyntax::kTags},
                                                           {"qwen3", ToolSyntax::kTags},
                                                           {"minimind2-small", ToolSyntax::kTags},
                                                           {"mistral-nemo", ToolSyntax::kList},
                                                           {"tinyllama", ToolSyntax::kNone}};
  for (const auto& [name, syntax] : kTemplates) {
    std::ifstream file(folder + name + ".jinja");
    if (!file) GTEST_SKIP() << folder << " is not here (BATON_SHARED)";
    std::ostringstream text;
    text << file.rdbuf();
    EXPECT_EQ(tool_syntax(text.str()), syntax) << name;
  }
}

}  // namespace
}  // namespace baton::text
