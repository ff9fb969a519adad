#include "coordinator/gateway/answer_grammar.h"

#include <algorithm>
#include <boost/json.hpp>

#include "absl/strings/ascii.h"
#include "base/cat.h"

namespace baton::coordinator {
namespace {

namespace json = boost::json;

constexpr size_t kMaxChoices = 4096;
constexpr size_t kMaxName = 1024;
constexpr size_t kToldBytes = 600;  // of the library's words, which may quote the whole grammar

// One of these texts and nothing else. Whatever could mean something in an expression is written by its
// number.
std::string expression_of(const json::array& choices) {
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string out;
  for (const json::value& choice : choices) {
    if (!out.empty()) out += '|';
    for (const char c : choice.get_string()) {
      const auto byte = static_cast<unsigned char>(c);
      if (byte >= 0x80 || absl::ascii_isalnum(byte) || c == ' ') {
        out += c;
      } else {
        out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
      }
    }
  }
  return cat("(", out, ")");
}

class GrammarReader {
 public:
  explicit GrammarReader(JsonFields& fields) : fields_(fields) {}

  AskedGrammar read() {
    read_response_format();
    read_structured_outputs();
    if (const json::value* v = asked("guided_json")) schema("guided_json", *v);
    if (const json::value* v = asked("guided_regex")) regex("guided_regex", *v);
    if (const json::value* v = asked("guided_choice")) choice("guided_choice", *v);
    if (const json::value* v = asked("guided_grammar")) lark("guided_grammar", *v);
    if (const json::value* v = asked("json_schema")) schema("json_schema", *v);
    if (const json::value* v = asked("grammar")) lark("grammar", *v);
    return std::move(asked_);
  }

 private:
  const json::value* asked(std::string_view name) {
    param_ = name;
    const json::value* v = fields_.any(name);
    return v && !is_empty(*v) ? v : nullptr;
  }

  void wrong(std::string_view name, std::string_view want) {
    fields_.fail(invalid_value(param_, cat("`", name, "` must be ", want)));
  }

  void ask(std::string_view name, GrammarKind kind, std::string source) {
    if (!asked_.grammar.empty())
      return fields_.fail(invalid_value(
          param_, cat("`", first_, "` and `", name, "` both say what the answer must be: send one of them")));
    asked_ = {.grammar = {kind, std::move(source)}, .param = param_};
    first_ = name;
  }

  void any_object(std::string_view name) { schema(name, json::object{{"type", "object"}}); }

  // A schema, or its JSON text.
  void schema(std::string_view name, const json::value& value) {
    if (value.is_object()) return ask(name, GrammarKind::kJsonSchema, one_line_schema(value.get_object()));
    if (value.is_bool()) {
      if (value.get_bool()) return ask(name, GrammarKind::kJsonSchema, one_line_schema({}));
      return fields_.fail(invalid_value(param_, cat("`", name, "`: no answer satisfies the schema false")));
    }
    if (!value.is_string()) return wrong(name, "a JSON schema");
    json::error_code ec;
    json::parse_options options;
    options.max_depth = kJsonDepth;
    const json::value parsed = json::parse(value.get_string(), ec, {}, options);
    if (ec) return wrong(name, cat("a JSON schema; as a text it is not valid JSON: ", ec.message()));
    parsed.is_string() ? wrong(name, "a JSON schema") : schema(name, parsed);
  }

  void regex(std::string_view name, const json::value& value) {
    if (!value.is_string()) return wrong(name, "a string");
    ask(name, GrammarKind::kRegex, std::string(value.get_string()));
  }

  void choice(std::string_view name, const json::value& value) {
    const json::array* list = value.if_array();
    const auto is_text = [](const json::value& v) { return v.is_string() && !v.get_string().empty(); };
    if (!list || list->empty() || list->size() > kMaxChoices || !std::ranges::all_of(*list, is_text))
      return wrong(name, cat("a list of 1 to ", kMaxChoices, " strings, none empty"));
    ask(name, GrammarKind::kRegex, expression_of(*list));
  }

  void lark(std::string_view name, const json::value& value) {
    if (!value.is_string()) return wrong(name, "a string");
    const std::string_view source = value.get_string();
    ask(name, GrammarKind::kLark, std::string(source));
  }

  void read_response_format() {
    param_ = "response_format";
    const json::object* body = fields_.object(param_);
    if (!body) return;
    JsonFields format(*body, "response_format.");
    const auto type = format.string("type", kMaxName);
    if (!format.ok()) return fields_.fail(*format.error());
    if (!type) return wrong("response_format.type", "a string");
    if (*type == "json_object") {
      const json::value* given = format.any("schema");
      if (given && !given->is_object()) return schema("response_format.schema", *given);
      json::object object = given ? given->get_object() : json::object();
      if (!object.contains("type")) object["type"] = "object";
      schema("response_format", std::move(object));
    } else if (*type == "json_schema") {
      read_named_schema(format.object("json_schema"));
    } else if (*type != "text") {
      fields_.fail(not_supported(
          param_, "`response_format` must have the type \"text\", \"json_object\" or \"json_schema\""));
    }
  }

  void read_named_schema(const json::object* named) {
    constexpr std::string_view kWhere = "response_format.json_schema.";
    if (!named) return wrong("response_format.json_schema", "an object with a `schema`");
    JsonFields members(*named, std::string(kWhere));
    members.string("name", kMaxName);
    members.boolean("strict");  // holds either way
    const json::value* given = members.any("schema");
    if (!members.ok()) return fields_.fail(*members.error());
    if (!given) return wrong(cat(kWhere, "schema"), "a JSON schema");
    schema(cat(kWhere, "schema"), *given);
  }

  void read_structured_outputs() {
    param_ = "structured_outputs";
    const json::object* body = fields_.object(param_);
    if (!body) return;
    JsonFields one(*body, "structured_outputs.");
    const auto given = [&](std::string_view name) {
      const json::value* v = one.any(name);
      return v && (!is_empty(*v) || v->is_object()) ? v : nullptr;  // {} is a schema
    };
    if (const json::value* v = given("json")) schema("structured_outputs.json", *v);
    if (const json::value* v = given("regex")) regex("structured_outputs.regex", *v);
    if (const json::value* v = given("choice")) choice("structured_outputs.choice", *v);
    if (const json::value* v = given("grammar")) lark("structured_outputs.grammar", *v);
    if (one.boolean("json_object").value_or(false)) any_object("structured_outputs.json_object");
    one.boolean("disable_fallback"), one.boolean("disable_any_whitespace");  // so it is
    if (!one.ok()) return fields_.fail(*one.error());
    for (const std::string& name : one.unknown_fields()) {
      const json::value& v = body->at(std::string_view(name).substr(param_.size() + 1));
      if (!v.is_null() && v != false && !is_empty(v))
        return fields_.fail(not_supported(param_, cat("`", name, "` is not supported")));
    }
  }

  JsonFields& fields_;
  AskedGrammar asked_;
  std::string param_;  // the field that is being read
  std::string first_;  // what asked_ is of
};

// Whether there is a first token, and is found in time.
absl::Status first_mask(const Grammar& grammar, text::GrammarCache& grammars) {
  ASSIGN_OR_RETURN(const std::unique_ptr<text::GrammarMatcher> start, grammars.matcher(grammar));
  std::vector<uint32_t> words(start->mask_words());
  return start->fill_mask(words);
}

}  // namespace

AskedGrammar read_answer_grammar(JsonFields& fields) { return GrammarReader(fields).read(); }

std::optional<ApiError> check_grammar(const AskedGrammar& asked, const RequestContext& context) {
  const auto refused = [&](std::string_view why) {
    return not_supported(asked.param, cat("`", asked.param, "`: ", why));
  };
  if (context.grammars == nullptr) return refused("constrained answers are not served here");
  if (context.text.end_token_ids.empty())
    return refused("the files of this model name no end token, and no answer inside a grammar would end");
  absl::Status status = first_mask(asked.grammar, *context.grammars);
  if (status.ok()) return std::nullopt;
  if (!absl::IsInvalidArgument(status) && !absl::IsResourceExhausted(status)) return from_status(status, {});
  std::string why(status.message());
  if (why.size() > kToldBytes) why = cat(why.substr(0, kToldBytes), " ...");
  if (asked.grammar.kind == GrammarKind::kLark && asked.grammar.source.contains("::="))
    why += " (GBNF and EBNF are not read: want Lark as llguidance writes it, start: \"yes\" | \"no\")";
  return invalid_value(asked.param, cat("`", asked.param, "` cannot be used: ", why));
}

// A field's name may be written with escapes, of letters or "_".
bool may_ask_for_grammar(std::string_view body) {
  constexpr std::string_view kFields[] = {"response_format", "structured_outputs", "guided_", "json_schema",
                                          "\"grammar\"",     "tool_choice",        "\\u005",  "\\u006",
                                          "\\u007"};
  return std::ranges::any_of(kFields, [&](std::string_view field) { return body.contains(field); });
}

std::string one_line_schema(json::object schema) {
  if (!schema.contains("x-guidance"))
    schema["x-guidance"] = {
        {"whitespace_flexible", false}, {"item_separator", ",\\x20?"}, {"key_separator", ":\\x20?"}};
  return json::serialize(schema);
}

}  // namespace baton::coordinator
