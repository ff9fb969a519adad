#include "text/json_call.h"

#include <boost/json.hpp>
#include <optional>
#include <utility>

namespace baton::text {
namespace {

bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

// A JSON string with its quotes; nullopt when it is none.
std::optional<std::string> string_of(std::string_view json) {
  boost::system::error_code error;
  const boost::json::value value = boost::json::parse(json, error);
  if (error || !value.is_string()) return std::nullopt;
  return std::string(value.get_string());
}

}  // namespace

void JsonCall::begin() { *this = {}; }

void JsonCall::begin_arguments(std::string name) {
  *this = {};
  name_ = std::move(name);
  alone_ = true;
  at_ = At::kValue;
  member_ = Member::kArguments;
}

std::string JsonCall::take_arguments() { return std::exchange(arguments_, {}); }

bool JsonCall::in_string(char c) {
  if (!string_) return string_ = c == '"';
  if (escaped_) {
    escaped_ = false;
  } else if (c == '\\') {
    escaped_ = true;
  } else if (c == '"') {
    string_ = false;
  }
  return true;
}

JsonCall::Step JsonCall::feed(char c) {
  if (at_ == At::kInValue) return in_value(c);
  if (at_ == At::kInKey) {
    key_ += c;
    in_string(c);
    if (!string_) at_ = At::kColon;
    return Step::kMore;
  }
  if (is_space(c)) return Step::kMore;
  const auto go = [this](bool good, At next) {
    at_ = next;
    return good ? Step::kMore : Step::kBad;
  };
  switch (at_) {
    case At::kBrace:
      return go(c == '{', At::kKey);
    case At::kKey:
      if (c == '}') return end_object();
      key_ = c;
      return go(in_string(c), At::kInKey);
    case At::kColon:
      return go(c == ':', At::kValue);
    case At::kValue:
      return on_value(c);
    default:
      if (c == '}') return end_object();
      return go(c == ',', At::kKey);
  }
}

JsonCall::Step JsonCall::on_value(char c) {
  if (!alone_) {
    const std::string key = string_of(key_).value_or("");
    member_ = key == "name" && name_.empty()                                   ? Member::kName
              : (key == "arguments" || key == "parameters") && !has_arguments_ ? Member::kArguments
                                                                               : Member::kOther;
  }
  kind_ = c == '"' ? Kind::kString : c == '{' || c == '[' ? Kind::kNested : Kind::kScalar;
  if (alone_ && c != '{') return Step::kBad;
  if (kind_ == Kind::kScalar && (c == ',' || c == '}' || c == ']' || c == ':')) return Step::kBad;
  has_arguments_ = has_arguments_ || member_ == Member::kArguments;
  text_.clear();
  at_ = At::kInValue;
  return in_value(c);
}

void JsonCall::keep(char c) {
  if (member_ == Member::kOther) return;
  (member_ == Member::kArguments && kind_ == Kind::kNested ? arguments_ : text_) += c;
}

JsonCall::Step JsonCall::in_value(char c) {
  if (kind_ == Kind::kScalar && (is_space(c) || c == ',' || c == '}')) {
    const Step step = end_value();
    return step == Step::kMore ? feed(c) : step;
  }
  keep(c);
  if (kind_ == Kind::kNested) return nested(c);
  if (kind_ == Kind::kString) {
    in_string(c);
    if (!string_) return end_value();
  }
  return Step::kMore;
}

JsonCall::Step JsonCall::nested(char c) {
  if (in_string(c)) return Step::kMore;
  if (c == '{' || c == '[') open_ += c == '{' ? '}' : ']';
  if (c != '}' && c != ']') return Step::kMore;
  if (open_.back() != c) return Step::kBad;
  open_.pop_back();
  return open_.empty() ? end_value() : Step::kMore;
}

JsonCall::Step JsonCall::end_value() {
  at_ = At::kComma;
  if (member_ == Member::kName) {
    name_ = string_of(text_).value_or("");
    if (name_.empty()) return Step::kBad;
  }
  // A JSON text inside a string, as some models write it; null: without arguments.
  if (member_ == Member::kArguments && kind_ != Kind::kNested) {
    arguments_ = text_ == "null" ? "" : string_of(text_).value_or(text_);
    if (arguments_.empty()) arguments_ = "{}";
  }
  return alone_ ? Step::kDone : Step::kMore;
}

JsonCall::Step JsonCall::end_object() const { return name_.empty() ? Step::kBad : Step::kDone; }

}  // namespace baton::text
