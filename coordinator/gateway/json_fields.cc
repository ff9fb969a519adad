#include "coordinator/gateway/json_fields.h"

#include <boost/json.hpp>
#include <cmath>
#include <sstream>

#include "base/cat.h"
#include "coordinator/gateway/json_writer.h"

namespace baton::coordinator {
namespace {

namespace json = boost::json;

std::string_view kind_of(const json::value& v) {
  switch (v.kind()) {
    case json::kind::null:
      return "null";
    case json::kind::bool_:
      return "a boolean";
    case json::kind::string:
      return "a string";
    case json::kind::array:
      return "a list";
    case json::kind::object:
      return "an object";
    default:
      return "a number";
  }
}

std::string number_text(double v) {
  std::ostringstream text;
  text << v;
  return text.str();
}

// The first half of a surrogate pair as the last character before an error, which may have read on by one
// byte.
bool ends_with_half_a_pair(std::string_view read) {
  if (read.ends_with('\\')) read.remove_suffix(1);
  if (read.size() < 6) return false;
  const std::string_view last = read.substr(read.size() - 6);
  return (last.starts_with("\\ud") || last.starts_with("\\uD")) &&
         std::string_view("89abAB").contains(last[3]);
}

// What a parser's "syntax error" at byte `at` usually is, in words that help; "" when it could be anything.
std::string_view hint(std::string_view body, size_t at, const json::error_code& ec) {
  constexpr std::string_view kReplaced = "\xEF\xBF\xBD";
  const std::string_view rest = body.substr(at);
  if (rest.starts_with("NaN") || rest.starts_with("Infinity")) return " (JSON has no NaN and no Infinity)";
  if (ec == json::error::illegal_leading_surrogate || ec == json::error::illegal_trailing_surrogate ||
      ends_with_half_a_pair(body.substr(0, at)))
    return " (half of a surrogate pair: \\ud800 to \\udfff come in twos)";
  if (to_utf8(rest.substr(0, 4)).starts_with(kReplaced) && !rest.starts_with(kReplaced))
    return " (it is not UTF-8)";
  return "";
}

}  // namespace

std::optional<ApiError> parse_json_object(std::string_view body, json::value& out) {
  const auto broken = [](std::string message) {
    return ApiError{.status = 400, .message = std::move(message), .code = "invalid_json"};
  };
  if (body.find_first_not_of(" \t\r\n") == std::string_view::npos) return broken("the request body is empty");
  json::parse_options options;
  options.max_depth = kJsonDepth;
  json::error_code ec;
  json::parser parser({}, options);
  const size_t parsed = parser.write_some(body.data(), body.size(), ec);
  if (!ec && parsed < body.size())
    return broken(cat("the request body has something behind its JSON, at byte ", parsed));
  if (ec == json::error::too_deep) return broken(cat("the JSON is nested deeper than ", kJsonDepth));
  if (ec)
    return broken(cat("the request body is not valid JSON, near byte ", parsed, ": ", ec.message(),
                      hint(body, parsed, ec)));
  out = parser.release();
  if (!out.is_object()) return broken(cat("the request body must be a JSON object, not ", kind_of(out)));
  return std::nullopt;
}

bool is_empty(const json::value& v) {
  if (v.is_object()) return v.get_object().empty();
  if (v.is_array()) return v.get_array().empty();
  return v.is_string() && v.get_string().empty();
}

std::optional<int64_t> whole_number(const json::value& v) {
  if (v.is_int64()) return v.get_int64();
  if (!v.is_double()) return std::nullopt;  // a uint64 kind is one that int64 cannot hold
  const double d = v.get_double();
  if (!(std::abs(d) < 0x1p53) || d != std::floor(d)) return std::nullopt;
  return static_cast<int64_t>(d);
}

std::optional<ApiError> read_token_ids(const json::array& array, std::string_view name, int32_t vocab,
                                       std::vector<int32_t>& out) {
  out.reserve(out.size() + array.size());
  for (size_t i = 0; i < array.size(); ++i) {
    const auto id = whole_number(array[i]);
    if (!id || *id < 0 || *id >= vocab)
      return invalid_value(std::string(name),
                           cat("`", name, "[", i, "]` must be a token id from 0 to ", vocab - 1));
    out.push_back(static_cast<int32_t>(*id));
  }
  return std::nullopt;
}

JsonFields::JsonFields(const json::object& object, std::string where)
    : object_(object), where_(std::move(where)) {}

void JsonFields::fail(ApiError error) {
  if (!error_) error_ = std::move(error);
}

void JsonFields::wrong(std::string_view name, std::string_view want) {
  const json::value* v = object_.if_contains(name);
  const std::string full = cat(where_, name);
  fail(invalid_value(full,
                     cat("`", full, "` must be ", want, v ? cat(", got ", kind_of(*v)) : std::string())));
}

const json::value* JsonFields::find(std::string_view name) {
  asked_.emplace(name);
  if (error_) return nullptr;
  const json::value* v = object_.if_contains(name);
  return v && !v->is_null() ? v : nullptr;
}

const json::value* JsonFields::any(std::string_view name) { return find(name); }

std::optional<bool> JsonFields::boolean(std::string_view name) {
  const json::value* v = find(name);
  if (!v) return std::nullopt;
  if (v->is_bool()) return v->get_bool();
  wrong(name, "true or false");
  return std::nullopt;
}

std::optional<int64_t> JsonFields::integer(std::string_view name, int64_t low, int64_t high) {
  const json::value* v = find(name);
  if (!v) return std::nullopt;
  const auto n = whole_number(*v);
  if (n && *n >= low && *n <= high) return n;
  const std::string full = cat(where_, name);
  if (n || v->is_number()) {
    fail(invalid_value(full, cat("`", full, "` must be a whole number from ", low, " to ", high)));
  } else {
    wrong(name, "a whole number");
  }
  return std::nullopt;
}

std::optional<double> JsonFields::number(std::string_view name, double low, double high) {
  const json::value* v = find(name);
  if (!v) return std::nullopt;
  if (!v->is_number()) {
    wrong(name, "a number");
    return std::nullopt;
  }
  const double d = v->to_number<double>();
  if (d >= low && d <= high) return d;
  const std::string full = cat(where_, name);
  fail(invalid_value(
      full, cat("`", full, "` must be a number from ", number_text(low), " to ", number_text(high))));
  return std::nullopt;
}

std::optional<std::string> JsonFields::string(std::string_view name, size_t max_bytes) {
  const json::value* v = find(name);
  if (!v) return std::nullopt;
  if (!v->is_string()) {
    wrong(name, "a string");
    return std::nullopt;
  }
  const auto& s = v->get_string();
  if (s.size() <= max_bytes) return std::string(s.data(), s.size());
  const std::string full = cat(where_, name);
  fail(invalid_value(full, cat("`", full, "` must be at most ", max_bytes, " bytes")));
  return std::nullopt;
}

const json::object* JsonFields::object(std::string_view name) {
  const json::value* v = find(name);
  if (!v) return nullptr;
  if (v->is_object()) return &v->get_object();
  wrong(name, "an object");
  return nullptr;
}

const json::array* JsonFields::array(std::string_view name, size_t max_items) {
  const json::value* v = find(name);
  if (!v) return nullptr;
  if (!v->is_array()) {
    wrong(name, "a list");
    return nullptr;
  }
  if (v->get_array().size() <= max_items) return &v->get_array();
  const std::string full = cat(where_, name);
  fail(invalid_value(full, cat("`", full, "` must have at most ", max_items, " items")));
  return nullptr;
}

std::optional<std::vector<int32_t>> JsonFields::token_ids(std::string_view name, size_t max_items,
                                                          int32_t vocab) {
  const json::array* items = array(name, max_items);
  if (!items) return std::nullopt;
  std::vector<int32_t> ids;
  if (auto error = read_token_ids(*items, cat(where_, name), vocab, ids)) {
    fail(std::move(*error));
    return std::nullopt;
  }
  return ids;
}

void JsonFields::accept(std::initializer_list<std::string_view> names) {
  for (const auto name : names) asked_.emplace(name);
}

std::vector<std::string> JsonFields::unknown_fields() const {
  std::vector<std::string> names;
  for (const auto& member : object_)
    if (!asked_.contains(std::string_view(member.key().data(), member.key().size())))
      names.push_back(cat(where_, std::string_view(member.key().data(), member.key().size())));
  return names;
}

}  // namespace baton::coordinator
