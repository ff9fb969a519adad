#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace baton::text {

// One call of a tool as a JSON object that comes character by character: {"name": "f", "arguments": {...}},
// "parameters" in place of "arguments", members in any order, others ignored. The arguments are handed on
// as they are written, unread but for their brackets. Thread: its owner.
class JsonCall {
 public:
  enum class Step : uint8_t { kMore, kDone, kBad };
  void begin();
  // The name is known already; what follows is the object of arguments alone.
  void begin_arguments(std::string name);
  // kBad: `c` cannot stand here, or the object is no call. Feed no more after kDone or kBad.
  Step feed(char c);

  const std::string& name() const { return name_; }      // "" until it is known
  bool has_arguments() const { return has_arguments_; }  // they have begun
  std::string take_arguments();                          // what came since the last call

 private:
  enum class At : uint8_t { kBrace, kKey, kInKey, kColon, kValue, kInValue, kComma };
  enum class Member : uint8_t { kName, kArguments, kOther };
  enum class Kind : uint8_t { kString, kNested, kScalar };

  Step on_value(char c);
  Step in_value(char c);
  Step nested(char c);
  Step end_value();
  Step end_object() const;
  void keep(char c);
  // Follows strings; true while `c` belongs to one, its quotes too.
  bool in_string(char c);

  At at_ = At::kBrace;
  Member member_ = Member::kOther;
  Kind kind_ = Kind::kScalar;
  bool alone_ = false;  // begin_arguments()
  bool string_ = false, escaped_ = false;
  bool has_arguments_ = false;
  std::string key_, text_, open_;  // open_: closing brackets that are due
  std::string name_, arguments_;
};

}  // namespace baton::text
