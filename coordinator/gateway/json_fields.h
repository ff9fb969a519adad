#pragma once

#include <boost/json/fwd.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/gateway/api_error.h"

namespace baton::coordinator {

inline constexpr int kJsonDepth = 64;

// A request body as one JSON object: strict JSON, UTF-8, at most kJsonDepth deep; of equal keys the last one
// holds.
std::optional<ApiError> parse_json_object(std::string_view body, boost::json::value& out);

// The one place where types and ranges of JSON from outside are checked. Reads the members of one object by
// name; null counts as absent. The first wrong one is kept in error(), and every later read gives nothing, so
// that a reader is a plain list of reads with one check at its end. Members nobody asked for are
// unknown_fields(). Thread: its owner. Borrows the object.
class JsonFields {
 public:
  // `where` stands before the names in errors: "stream_options." for a nested object.
  explicit JsonFields(const boost::json::object& object, std::string where = "");

  std::optional<bool> boolean(std::string_view name);
  // Whole numbers, also written as 3.0; both ends belong to the range.
  std::optional<int64_t> integer(std::string_view name, int64_t low, int64_t high);
  std::optional<double> number(std::string_view name, double low, double high);
  std::optional<std::string> string(std::string_view name, size_t max_bytes);
  // Any value of that name; null counts as absent.
  const boost::json::value* any(std::string_view name);
  const boost::json::object* object(std::string_view name);
  const boost::json::array* array(std::string_view name, size_t max_items);
  // A list of token ids in [0, vocab).
  std::optional<std::vector<int32_t>> token_ids(std::string_view name, size_t max_items, int32_t vocab);
  // These names are understood, but change nothing.
  void accept(std::initializer_list<std::string_view> names);

  bool ok() const { return !error_.has_value(); }
  const std::optional<ApiError>& error() const { return error_; }
  void fail(ApiError error);
  std::vector<std::string> unknown_fields() const;

 private:
  const boost::json::value* find(std::string_view name);
  void wrong(std::string_view name, std::string_view want);

  const boost::json::object& object_;
  const std::string where_;
  std::set<std::string, std::less<>> asked_;
  std::optional<ApiError> error_;
};

// The ids of `array`; `name` is for the error.
std::optional<ApiError> read_token_ids(const boost::json::array& array, std::string_view name, int32_t vocab,
                                       std::vector<int32_t>& out);
// An empty text, list or object: libraries fill in fields that nobody set, and they ask for nothing.
bool is_empty(const boost::json::value& value);
// A whole number of any JSON kind; nullopt for fractions, other types and what int64 cannot hold.
std::optional<int64_t> whole_number(const boost::json::value& value);

}  // namespace baton::coordinator
