#pragma once

#include <algorithm>
#include <string>
#include <string_view>

#include "absl/strings/ascii.h"

// ASCII rules of HTTP on std::string_view (Debian's Abseil has a string_view of its own).
namespace baton::coordinator {

inline bool is_one_of(char c, std::string_view set) { return set.find(c) != std::string_view::npos; }

inline bool equal_ignoring_case(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return absl::ascii_tolower(x) == absl::ascii_tolower(y); });
}

inline std::string lower_case(std::string_view s) {
  std::string out(s);
  absl::AsciiStrToLower(&out);
  return out;
}

// Without blanks and tabs at both ends.
inline std::string_view trim(std::string_view s) {
  while (!s.empty() && is_one_of(s.front(), " \t")) s.remove_prefix(1);
  while (!s.empty() && is_one_of(s.back(), " \t")) s.remove_suffix(1);
  return s;
}

// Is `option` one of the elements of the comma list?
inline bool list_holds(std::string_view list, std::string_view option) {
  while (true) {
    const size_t comma = std::min(list.find(','), list.size());
    if (equal_ignoring_case(trim(list.substr(0, comma)), option)) return true;
    if (comma == list.size()) return false;
    list.remove_prefix(comma + 1);
  }
}

}  // namespace baton::coordinator
