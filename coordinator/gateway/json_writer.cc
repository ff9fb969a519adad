#include "coordinator/gateway/json_writer.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

namespace baton::coordinator {
namespace {

struct Lead {
  int length;               // 0 = no lead byte
  unsigned char low, high;  // of the second byte
};

// Table 3-7 of the Unicode standard: overlong forms, surrogates and values past U+10FFFF have no lead.
Lead lead_of(unsigned char c) {
  if (c < 0x80) return {1, 0, 0};
  if (c < 0xC2) return {0, 0, 0};
  if (c < 0xE0) return {2, 0x80, 0xBF};
  if (c == 0xE0) return {3, 0xA0, 0xBF};
  if (c == 0xED) return {3, 0x80, 0x9F};
  if (c < 0xF0) return {3, 0x80, 0xBF};
  if (c == 0xF0) return {4, 0x90, 0xBF};
  if (c < 0xF4) return {4, 0x80, 0xBF};
  if (c == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

// How many bytes of the character at the front are good; `whole` tells whether it is complete.
size_t good_bytes(std::string_view s, bool& whole) {
  const Lead lead = lead_of(static_cast<unsigned char>(s[0]));
  whole = lead.length == 1;
  if (lead.length < 2) return whole ? 1 : 0;
  size_t n = 1;
  for (; n < static_cast<size_t>(lead.length) && n < s.size(); ++n) {
    const auto c = static_cast<unsigned char>(s[n]);
    if (n == 1 ? (c < lead.low || c > lead.high) : (c & 0xC0) != 0x80) return n;
  }
  whole = n == static_cast<size_t>(lead.length);
  return n;
}

bool stands_for_itself(char c) { return c >= 0x20 && c < 0x7f && c != '"' && c != '\\'; }

void append_escaped(std::string& out, char c) {
  constexpr char kHex[] = "0123456789abcdef";
  switch (c) {
    case '"':
      out += "\\\"";
      break;
    case '\\':
      out += "\\\\";
      break;
    case '\n':
      out += "\\n";
      break;
    case '\r':
      out += "\\r";
      break;
    case '\t':
      out += "\\t";
      break;
    default:
      if (static_cast<unsigned char>(c) >= 0x20) {
        out += c;
      } else {
        out += "\\u00";
        out += kHex[c >> 4];
        out += kHex[c & 15];
      }
  }
}

template <class Number>
std::string number_text(Number number) {
  if (std::isnan(number)) return "null";
  if (std::isinf(number)) number = std::copysign(std::numeric_limits<Number>::max(), number);
  char digits[40];
  const auto end = std::to_chars(digits, digits + sizeof digits, number).ptr;
  return std::string(digits, end);
}

}  // namespace

std::string to_utf8(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  while (!bytes.empty()) {
    bool whole = false;
    const size_t n = good_bytes(bytes, whole);
    if (whole) {
      out += bytes.substr(0, n);
    } else {
      out += "\xEF\xBF\xBD";
    }
    bytes.remove_prefix(n == 0 ? 1 : n);
  }
  return out;
}

JsonWriter& JsonWriter::key(std::string_view name) {
  value(name);
  text_ += ':';
  fresh_ = true;
  return *this;
}

JsonWriter& JsonWriter::value(std::string_view text) {
  separate();
  text_ += '"';
  const auto plain_end = std::ranges::find_if_not(text, stands_for_itself);
  const auto plain = static_cast<size_t>(plain_end - text.begin());
  text_ += text.substr(0, plain);
  if (plain < text.size())
    for (const char c : to_utf8(text.substr(plain))) append_escaped(text_, c);
  text_ += '"';
  return *this;
}

JsonWriter& JsonWriter::value(double number) { return raw(number_text(number)); }
JsonWriter& JsonWriter::value(float number) { return raw(number_text(number)); }

}  // namespace baton::coordinator
