#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace baton::text {

// Bytes as they come to valid UTF-8: an unfinished character is held back, what can be no character becomes
// U+FFFD (one per maximal invalid part, as Unicode 3.9 recommends and Rust's and browsers' decoders do).
//   append("\xe2\x82") -> ""     append("\xac") -> "€"     append("\xff") -> U+FFFD
// Thread: its owner.
class Utf8Stream {
 public:
  void append(std::string_view bytes, std::string& out);
  // The end: an unfinished character becomes U+FFFD.
  void finish(std::string& out);

 private:
  // Starts a character with `byte`, or emits it at once.
  void begin(uint8_t byte, std::string& out);
  void reset();

  std::string pending_;
  int needed_ = 0;        // bytes that pending_ lacks
  uint8_t lower_ = 0x80;  // bounds of the next one
  uint8_t upper_ = 0xBF;
};

}  // namespace baton::text
