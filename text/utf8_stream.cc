#include "text/utf8_stream.h"

namespace baton::text {
namespace {
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
}

void Utf8Stream::reset() {
  pending_.clear();
  needed_ = 0;
  lower_ = 0x80;
  upper_ = 0xBF;
}

// Table 3-7 of the Unicode standard: the second byte's range depends on the first.
void Utf8Stream::begin(uint8_t byte, std::string& out) {
  if (byte < 0x80) {
    out += static_cast<char>(byte);
    return;
  }
  if (byte < 0xC2 || byte > 0xF4) {
    out += kReplacement;
    return;
  }
  needed_ = byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
  if (byte == 0xE0) lower_ = 0xA0;
  if (byte == 0xED) upper_ = 0x9F;
  if (byte == 0xF0) lower_ = 0x90;
  if (byte == 0xF4) upper_ = 0x8F;
  pending_ += static_cast<char>(byte);
}

void Utf8Stream::append(std::string_view bytes, std::string& out) {
  for (const char c : bytes) {
    const auto byte = static_cast<uint8_t>(c);
    if (needed_ > 0 && (byte < lower_ || byte > upper_)) {
      out += kReplacement;
      reset();
    }
    if (needed_ == 0) {
      begin(byte, out);
      continue;
    }
    pending_ += c;
    lower_ = 0x80;
    upper_ = 0xBF;
    if (--needed_ == 0) {
      out += pending_;
      reset();
    }
  }
}

void Utf8Stream::finish(std::string& out) {
  if (needed_ > 0) out += kReplacement;
  reset();
}

}  // namespace baton::text
