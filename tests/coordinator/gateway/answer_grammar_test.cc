// Constrained answers as clients ask for them: every dialect, what is refused, and what the grammars allow.
#include "coordinator/gateway/answer_grammar.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>

#include "base/cat.h"
#include "tests/text/byte_model.h"

namespace baton::coordinator {
namespace {

using ::testing::HasSubstr;

constexpr const char* kTemplate = "{% for m in messages %}{{ m.content }}{% endfor %}{{ tools }}<tool_call>";
constexpr TokenId kEnd = 256;

class AnswerGrammar : public testing::Test {
 protected:
  std::expected<GenerationPlan, ApiError> read(const std::string& more, Endpoint endpoint = Endpoint::kChat) {
    const std::string prompt =
        endpoint == Endpoint::kChat ? R"("messages":[{"role":"user","content":"hi"}])" : R"("prompt":"hi")";
    return read_generation(
        cat("{", prompt, ",", more, "}"), endpoint,
        {.text = model_, .model_names = names_, .grammars = grammars_, .context_tokens = 4000});
  }
  Grammar grammar(const std::string& more, Endpoint endpoint = Endpoint::kChat) {
    const auto plan = read(more, endpoint);
    EXPECT_TRUE(plan.has_value()) << more << ": " << plan.error().message;
    EXPECT_TRUE(!plan || plan->unknown_fields.empty()) << more;
    return plan ? plan->requests.at(0).grammar : Grammar{};
  }
  // "param: message" of a refusal.
  std::string refusal(const std::string& more, Endpoint endpoint = Endpoint::kChat) {
    const auto plan = read(more, endpoint);
    if (plan) return "taken";
    EXPECT_EQ(plan.error().status, 400) << plan.error().message;
    return cat(plan.error().param, ": ", plan.error().message);
  }
  // Whether `text` is a whole answer.
  bool takes(const Grammar& grammar, std::string_view text) {
    auto matcher = cache_.matcher(grammar);
    if (!matcher.ok()) return ADD_FAILURE() << matcher.status(), false;
    for (const char c : text)
      if (!*(*matcher)->accept(static_cast<unsigned char>(c))) return false;
    return *(*matcher)->accepting();
  }

  text::ModelText model_ = text::byte_model(kTemplate);
  text::GrammarCache cache_{[this] {
    return text::GrammarVocabulary::create(*model_.tokenizer, model_.tokenizer->vocab_size(),
                                           model_.end_token_ids);
  }};
  text::GrammarCache* grammars_ = &cache_;
  std::vector<std::string> names_ = {"tiny"};
};

constexpr const char* kPerson =
    R"({"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer"}},"required":["name","age"],"additionalProperties":false})";

TEST_F(AnswerGrammar, NothingAskedIsNoGrammar) {
  for (
      const char* more :
      {R"("response_format":{"type":"text"})", R"("response_format":null)", R"("structured_outputs":{})",
       R"("structured_outputs":{"json":null,"regex":"","choice":[],"json_object":false,"whitespace_pattern":null})",
       R"("guided_json":null,"guided_regex":"","grammar":"","json_schema":{},"guided_choice":[])"})
    for (const Endpoint endpoint : {Endpoint::kChat, Endpoint::kCompletions})
      EXPECT_TRUE(grammar(more, endpoint).empty()) << more;
}

TEST_F(AnswerGrammar, EveryDialectOfASchema) {
  const std::string quoted = boost::json::serialize(boost::json::string(kPerson));
  const Grammar want = grammar(cat(R"("guided_json":)", kPerson));
  EXPECT_EQ(want.kind, GrammarKind::kJsonSchema);
  for (
      const std::string& more :
      {cat(R"("response_format":{"type":"json_schema","json_schema":{"name":"p","strict":true,"description":"d","schema":)",
           kPerson, "}}"),
       cat(R"("response_format":{"type":"json_object","schema":)", kPerson, "}"),
       cat(R"("structured_outputs":{"json":)", kPerson, R"(,"disable_any_whitespace":true})"),
       cat(R"("structured_outputs":{"json":)", quoted, "}"), cat(R"("guided_json":)", quoted),
       cat(R"("json_schema":)", kPerson)})
    for (const Endpoint endpoint : {Endpoint::kChat, Endpoint::kCompletions})
      EXPECT_EQ(grammar(more, endpoint), want) << more;
  EXPECT_TRUE(takes(want, R"({"name": "Zoë", "age": 42})"));
  EXPECT_TRUE(takes(want, R"({"name":"","age":-1})"));
  EXPECT_FALSE(takes(want, R"({"name":"x"})"));
  EXPECT_FALSE(takes(want, R"({"name":"x","age":"1"})"));
  EXPECT_FALSE(takes(want, "hello"));
}

TEST_F(AnswerGrammar, AnyJsonObject) {
  for (const char* more :
       {R"("response_format":{"type":"json_object"})", R"("structured_outputs":{"json_object":true})"}) {
    const Grammar got = grammar(more);
    EXPECT_TRUE(takes(got, R"({"a": [1, {"b": null}], "c": "d"})")) << more;
    EXPECT_FALSE(takes(got, "[]")) << more;
  }
  for (const char* more : {R"("structured_outputs":{"json":{}})", R"("guided_json":true)",
                           R"("response_format":{"type":"json_schema","json_schema":{"schema":{}}})"})
    EXPECT_TRUE(takes(grammar(more), "[1, \"a\"]")) << more << ": any JSON";
}

// White space without end is what small models fall into.
TEST_F(AnswerGrammar, JsonIsOnOneLineUnlessTheSchemaSaysOtherwise) {
  const Grammar plain = grammar(R"("guided_json":{"type":"array","items":{"type":"integer"}})");
  EXPECT_TRUE(takes(plain, "[1,2, 3]"));
  for (const char* text : {"[1,  2]", "[ 1]", "[1,\n2]", " [1]", "[1] ", "[1 ]"})
    EXPECT_FALSE(takes(plain, text)) << text;
  const Grammar own = grammar(
      R"("guided_json":{"type":"array","items":{"type":"integer"},"x-guidance":{"whitespace_flexible":true}})");
  EXPECT_TRUE(takes(own, "[ 1,\n\n2]"));
}

TEST_F(AnswerGrammar, ExpressionsAndLark) {
  for (const char* more :
       {R"("guided_regex":"[a-f]{2}/\\d+")", R"("structured_outputs":{"regex":"[a-f]{2}/\\d+"})"}) {
    const Grammar got = grammar(more);
    EXPECT_EQ(got, (Grammar{GrammarKind::kRegex, R"([a-f]{2}/\d+)"}));
    EXPECT_TRUE(takes(got, "fe/12"));
    EXPECT_FALSE(takes(got, "fe/12 ")) << "the whole answer, not a part of it";
  }
  for (const char* more : {R"("guided_grammar":"start: \"a\" \"b\"*")", R"("grammar":"start: \"a\" \"b\"*")",
                           R"("structured_outputs":{"grammar":"start: \"a\" \"b\"*"})"}) {
    const Grammar got = grammar(more);
    EXPECT_EQ(got.kind, GrammarKind::kLark);
    EXPECT_TRUE(takes(got, "abb"));
    EXPECT_FALSE(takes(got, "b"));
  }
}

TEST_F(AnswerGrammar, AChoiceIsExactlyOneOfItsTexts) {
  const std::vector<std::string> texts = {"yes",   "yes, but",    "a.b", "a|b",        "(",     "[x]",
                                          "\"q\"", "back\\slash", "\\d", "two\nlines", "tab\t", "\x7f",
                                          "/",     "//",          "#",   "ünï",        "漢字",  "🙂",
                                          " ",     "$^*+?{2}",    "\x01"};
  boost::json::array list;
  for (const std::string& text : texts) list.push_back(boost::json::string(text));
  for (const char* field : {R"("guided_choice":)", R"("structured_outputs":{"choice":)"}) {
    const Grammar got = grammar(cat(field, boost::json::serialize(list), field[1] == 's' ? "}" : ""));
    for (const std::string& text : texts) EXPECT_TRUE(takes(got, text)) << text;
    for (const char* text :
         {"", "no", "axb", "a", "b", "5", "x", "yes,", "((", "[", "q", "nn", "ü", "d", "yesyes", "$^"})
      EXPECT_FALSE(takes(got, text)) << text;
  }
}

TEST_F(AnswerGrammar, ManyLongChoices) {
  boost::json::array list;
  for (int i = 0; i < 2000; ++i) list.push_back(boost::json::string(cat("choice number ", i, "!")));
  EXPECT_TRUE(
      takes(grammar(cat(R"("guided_choice":)", boost::json::serialize(list))), "choice number 1999!"));
}

TEST_F(AnswerGrammar, EveryChoiceOfARequestHasIt) {
  const auto plan = read(R"("prompt":["a","b"],"n":2,"guided_regex":"a+")", Endpoint::kCompletions);
  ASSERT_TRUE(plan.has_value()) << plan.error().message;
  ASSERT_EQ(plan->requests.size(), 4u);
  for (const GenerateRequest& request : plan->requests) EXPECT_EQ(request.grammar.source, "a+");
}

TEST_F(AnswerGrammar, WrongTypesAreRefusedByTheirName) {
  EXPECT_THAT(refusal(R"("response_format":7)"),
              HasSubstr("response_format: `response_format` must be an object"));
  EXPECT_THAT(refusal(R"("response_format":{})"), HasSubstr("`response_format.type` must be a string"));
  EXPECT_THAT(refusal(R"("response_format":{"type":7})"),
              HasSubstr("`response_format.type` must be a string"));
  EXPECT_THAT(refusal(R"("response_format":{"type":"xml"})"), HasSubstr("must have the type \"text\""));
  EXPECT_THAT(refusal(R"("response_format":{"type":"json_schema"})"),
              HasSubstr("`response_format.json_schema` must be an object with a `schema`"));
  EXPECT_THAT(refusal(R"("response_format":{"type":"json_schema","json_schema":{"name":"a"}})"),
              HasSubstr("`response_format.json_schema.schema` must be a JSON schema"));
  EXPECT_THAT(refusal(R"("response_format":{"type":"json_schema","json_schema":{"name":7,"schema":{}}})"),
              HasSubstr("`response_format.json_schema.name` must be a string"));
  EXPECT_THAT(refusal(R"("guided_json":"{")"), HasSubstr("`guided_json` must be a JSON schema; as a text"));
  EXPECT_THAT(refusal(R"("guided_json":"\"x\"")"), HasSubstr("`guided_json` must be a JSON schema"));
  EXPECT_THAT(refusal(R"("guided_json":[1])"), HasSubstr("`guided_json` must be a JSON schema"));
  EXPECT_THAT(refusal(R"("guided_json":false)"), HasSubstr("no answer satisfies"));
  EXPECT_THAT(refusal(R"("guided_regex":7)"), HasSubstr("`guided_regex` must be a string"));
  for (const char* list : {R"("a")", "7", R"(["a",7])", R"(["a",""])", R"({"a":1})"})
    EXPECT_THAT(refusal(cat(R"("guided_choice":)", list)),
                HasSubstr("guided_choice: `guided_choice` must be a list"));
  EXPECT_THAT(refusal(R"("grammar":["a"])"), HasSubstr("`grammar` must be a string"));
  EXPECT_THAT(refusal(R"("structured_outputs":7)"), HasSubstr("`structured_outputs` must be an object"));
  EXPECT_THAT(refusal(R"("structured_outputs":{"regex":7})"),
              HasSubstr("structured_outputs: `structured_outputs.regex` must be a string"));
  EXPECT_THAT(refusal(R"("structured_outputs":{"json_object":7})"),
              HasSubstr("json_object` must be true or false"));
  EXPECT_THAT(refusal(R"("structured_outputs":{"regex":"a","structural_tag":"x"})"),
              HasSubstr("`structured_outputs.structural_tag` is not supported"));
}

TEST_F(AnswerGrammar, OneWayAtATime) {
  EXPECT_THAT(refusal(R"("response_format":{"type":"json_object"},"guided_regex":"a")"),
              HasSubstr("guided_regex: `response_format` and `guided_regex` both say"));
  EXPECT_THAT(refusal(R"("structured_outputs":{"regex":"a","choice":["b"]})"),
              HasSubstr("`structured_outputs.regex` and `structured_outputs.choice` both say"));
  EXPECT_EQ(grammar(R"("response_format":{"type":"text"},"guided_regex":"a")").source, "a");
}

TEST_F(AnswerGrammar, WhatTheLibraryDoesNotTakeIsRefusedInItsWords) {
  EXPECT_THAT(refusal(R"("guided_regex":"(a")"),
              HasSubstr("guided_regex: `guided_regex` cannot be used: grammar: regex:"));
  EXPECT_THAT(refusal(R"("guided_json":{"type":"nonsense"})"),
              HasSubstr("guided_json: `guided_json` cannot be used"));
  EXPECT_THAT(refusal(R"("guided_json":{"type":"object","x-guidance":{"nonsense":1}})"),
              HasSubstr("nonsense"));
  EXPECT_THAT(refusal(R"("grammar":"start: nothing_there")"),
              HasSubstr("grammar: `grammar` cannot be used: grammar: lark"));
  EXPECT_THAT(refusal(R"("grammar":"root ::= \"yes\" | \"no\"")"),
              HasSubstr("GBNF and EBNF are not read: want Lark"));
  EXPECT_FALSE(grammar(R"("grammar":"start: \"::=\"")").empty()) << "Lark that speaks of it";
  // No answer is one of these.
  for (const char* none : {R"("grammar":"start: start")", R"("guided_regex":"[^\\x00-\\x{10ffff}]")"})
    EXPECT_THAT(refusal(none), HasSubstr("cannot be used: grammar:")) << none;
  const std::string big(Grammar::kMostBytes + 1, 'a');
  EXPECT_THAT(refusal(cat(R"("guided_regex":")", big, "\"")), HasSubstr("262145 bytes; at most 262144"));
  const auto long_words = refusal(cat(R"("grammar":"start: )", std::string(5000, 'x'), "\""));
  EXPECT_LT(long_words.size(), 1000u);
}

// ---- calls of tools

constexpr const char* kTools = R"("tools":[{"type":"function","function":{"name":"look","parameters":
    {"type":"object","properties":{"at":{"type":"integer"}},"required":["at"],"additionalProperties":false}}},
    {"type":"function","function":{"name":"go"}}],)";

TEST_F(AnswerGrammar, RequiredCallsAreCallsOfTheTools) {
  const Grammar some = grammar(cat(kTools, R"("tool_choice":"required")"));
  const std::string look = "<tool_call>\n{\"name\": \"look\", \"arguments\": {\"at\": 7}}\n</tool_call>";
  const std::string go =
      "<tool_call>\n{\"name\": \"go\", \"arguments\": {\"any\":[\"thing\"]}}\n</tool_call>";
  for (const std::string& text : {look, go, cat(look, "\n", go), cat(go, "\n", go, "\n", look)})
    EXPECT_TRUE(takes(some, text)) << text;
  for (const std::string& text :
       {std::string("hello"), look + "\n", cat("I will. ", look),
        std::string("<tool_call>\n{\"name\": \"look\", \"arguments\": {\"at\": \"7\"}}"),
        std::string("<tool_call>\n{\"name\": \"go\", \"arguments\": 7}\n</tool_call>"),
        std::string("<tool_call>\n{\"name\": \"stay\"")})
    EXPECT_FALSE(takes(some, text)) << text;
  const Grammar one = grammar(cat(kTools, R"("tool_choice":"required","parallel_tool_calls":false)"));
  EXPECT_TRUE(takes(one, go));
  EXPECT_FALSE(takes(one, cat(go, "\n", look)));
  const Grammar named = grammar(cat(kTools, R"("tool_choice":{"type":"function","function":{"name":"go"}})"));
  EXPECT_TRUE(takes(named, go));
  EXPECT_FALSE(takes(named, look));
  EXPECT_FALSE(takes(named, cat(go, "\n", go)));
}

TEST_F(AnswerGrammar, CallsThatAreTheModelsChoiceAreHeldToNothing) {
  for (const char* more : {R"("tool_choice":"auto")", R"("tool_choice":"none")", R"("n":1)"})
    EXPECT_TRUE(grammar(cat(kTools, more)).empty()) << more;
  // Parameters that no grammar can be made of do not matter then.
  const std::string odd =
      R"("tools":[{"function":{"name":"f","parameters":{"properties":{"a":{"type":"nonsense"}}}}}],)";
  EXPECT_TRUE(grammar(odd + R"("n":1)").empty());
  EXPECT_THAT(refusal(odd + R"("tool_choice":"required")"),
              HasSubstr("tools: `tools` cannot be used: grammar"));
}

TEST_F(AnswerGrammar, AFormatAndToolsMeanOneOrTheOther) {
  const std::string format = R"("response_format":{"type":"json_object"},)";
  const Grammar either = grammar(cat(kTools, format, R"("tool_choice":"auto")"));
  EXPECT_TRUE(takes(either, R"({"a":1})"));
  EXPECT_TRUE(takes(either, "<tool_call>\n{\"name\": \"look\", \"arguments\": {\"at\": 7}}\n</tool_call>"));
  EXPECT_FALSE(takes(either, "a"));
  const Grammar only = grammar(cat(kTools, format, R"("tool_choice":"none")"));
  EXPECT_EQ(only.kind, GrammarKind::kJsonSchema);
  EXPECT_THAT(refusal(cat(kTools, format, R"("tool_choice":"required")")),
              HasSubstr("response_format: `response_format` and calls of `tools` exclude each other here"));
  EXPECT_THAT(refusal(cat(kTools, R"("guided_regex":"a")")),
              HasSubstr("guided_regex: `guided_regex` and calls of"));
  EXPECT_THAT(refusal(cat(kTools, R"("guided_json":{"type":"nonsense"})")),
              HasSubstr("guided_json: `guided_json` cannot"));
  model_.tool_syntax = text::ToolSyntax::kObject;
  EXPECT_THAT(refusal(cat(kTools, format, R"("tool_choice":"auto")")), HasSubstr("exclude each other here"));
}

TEST_F(AnswerGrammar, WhereNoneAreServed) {
  grammars_ = nullptr;
  EXPECT_THAT(refusal(R"("guided_regex":"a")"),
              HasSubstr("guided_regex: `guided_regex`: constrained answers are not served"));
  EXPECT_TRUE(read(R"("response_format":{"type":"text"})").has_value());
  grammars_ = &cache_;
  model_.end_token_ids.clear();
  EXPECT_THAT(refusal(R"("guided_regex":"a")"), HasSubstr("name no end token"));
}

TEST_F(AnswerGrammar, BodiesThatAskForNoneAreKnownByTheirBytes) {
  EXPECT_FALSE(may_ask_for_grammar(R"({"messages":[{"role":"user","content":"a grammar"}],"stream":true})"));
  for (const char* field : {"response_format", "structured_outputs", "guided_json", "guided_regex",
                            "guided_choice", "guided_grammar", "json_schema", "grammar", "tool_choice"})
    EXPECT_TRUE(may_ask_for_grammar(cat("{\"", field, "\":7}"))) << field;
}

}  // namespace
}  // namespace baton::coordinator
