#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/json_call.h"
#include "text/tokenizer.h"

namespace baton::text {

// How a family of models writes calls of tools into its answer.
//   kTags    Hermes, Qwen:  text <tool_call>{"name": "f", "arguments": {...}}</tool_call> ...
//   kObject  Llama 3:       {"name": "f", "parameters": {...}}; ...    the whole answer, or behind
//                           <|python_tag|>
//   kList    Mistral:       text [TOOL_CALLS][{"name": "f", "arguments": {...}}, ...], or
//   [TOOL_CALLS]f[ARGS]{...}
enum class ToolSyntax : uint8_t {
  kNone,     // the chat template takes no tools
  kUnknown,  // it does, and writes calls in no form that is read here
  kTags,
  kObject,
  kList,
};

inline constexpr std::string_view kTagMark = "<tool_call>", kEndTagMark = "</tool_call>";
inline constexpr std::string_view kListMark = "[TOOL_CALLS]";

// What the chat template teaches the model; the template's text is all there is to tell by.
ToolSyntax tool_syntax(std::string_view template_source);
// Control tokens of that syntax in this vocabulary: they are part of the text that a ToolCallReader reads.
std::vector<TokenId> tool_marks(const Tokenizer& tokenizer, ToolSyntax syntax);

// A part of one call: the first has the name; the arguments of all, concatenated, are a JSON text as the
// model wrote it.
struct ToolCallPiece {
  int index = 0;
  std::string name;
  std::string arguments;
  friend bool operator==(const ToolCallPiece&, const ToolCallPiece&) = default;
};
struct ToolText {
  std::string content;
  std::vector<ToolCallPiece> calls;
};

// Splits the text of an answer into content and calls as it comes. What it says, concatenated, does not
// depend on the pieces the text comes in. What begins like a call and is none is content, as written;
// white space beside calls is dropped. A call is told as soon as its name is known, so one that is cut off
// by the length limit may have unfinished arguments. Thread: its owner. Errors: none, models write anything.
//
//   kTags: push("Wait.\n<tool_") -> "Wait."; push("call>{\"name\": \"f\", \"arguments\": {\"a\"") -> call 0 f
//   {"a"; push(": 1}}</tool_call>") -> call 0 : 1}
class ToolCallReader {
 public:
  // `syntax`: kTags, kObject or kList.
  explicit ToolCallReader(ToolSyntax syntax);
  ToolText push(std::string_view text);
  ToolText finish();
  int begun() const { return begun_; }  // calls that were told, whole or not
  int ended() const { return ended_; }
  // Of the first calls on: those before one that was not told to its end.
  int whole() const { return whole_; }

 private:
  enum class At : uint8_t { kStart, kContent, kOpen, kName, kMark, kCall, kBehind };

  void feed(char c);
  void on_start(char c);
  void on_content(char c);
  void on_open(char c);
  void on_name(char c);
  void on_mark(char c);
  void on_call(char c);
  void on_behind(char c);
  void begin_call();
  void tell_call();
  void end_call();
  void no_call(char c);
  void say(std::string_view text);

  const ToolSyntax syntax_;
  At at_;
  std::string held_;   // may become a mark
  std::string space_;  // behind content: dropped when a call follows
  std::string raw_;    // of a call that was not told yet
  size_t lead_ = 0;    // white space that an answer began with
  std::string name_;   // of a call written as name[ARGS]{...}
  JsonCall call_;
  bool told_ = false;         // the call that is being read
  bool in_list_ = false;      // between [ and ] of [TOOL_CALLS][...]
  bool behind_call_ = false;  // no content since the last call
  int begun_ = 0, ended_ = 0, whole_ = 0;
  ToolText out_;
};

}  // namespace baton::text
