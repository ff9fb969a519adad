#pragma once

#include <cstdint>
#include <string>

namespace baton {

// What the text of an answer must be: a sentence of a grammar, which clients write, messages carry and
// text/grammar_matcher.h compiles. kNone: anything.
enum class GrammarKind : uint8_t { kNone, kJsonSchema, kRegex, kLark };

struct Grammar {
  GrammarKind kind = GrammarKind::kNone;
  std::string source;  // JSON schema, expression, or Lark as llguidance reads it

  static constexpr uint64_t kMostBytes = 256 * 1024;
  bool empty() const { return kind == GrammarKind::kNone; }
  friend bool operator==(const Grammar&, const Grammar&) = default;
};

}  // namespace baton
