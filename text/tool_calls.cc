#include "text/tool_calls.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace baton::text {
namespace {

constexpr std::string_view kArguments = "[ARGS]", kCallId = "[CALL_ID]";
constexpr std::string_view kPython = "<|python_tag|>";
constexpr size_t kMarkBytes = 64;  // no mark between a name and its arguments is longer

bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

bool is_name(char c) { return is_word(c) || c == '-' || c == '.'; }

bool has_word(std::string_view text, std::string_view word) {
  for (size_t at = text.find(word); at != text.npos; at = text.find(word, at + 1)) {
    const size_t end = at + word.size();
    if ((at == 0 || !is_word(text[at - 1])) && (end == text.size() || !is_word(text[end]))) return true;
  }
  return false;
}

}  // namespace

ToolSyntax tool_syntax(std::string_view source) {
  if (!has_word(source, "tools")) return ToolSyntax::kNone;
  if (source.contains(kListMark)) return ToolSyntax::kList;
  // Some models write <tool_call><function=f>...: no JSON.
  if (source.contains(kTagMark))
    return source.contains("<function=") ? ToolSyntax::kUnknown : ToolSyntax::kTags;
  if (source.contains(kPython) || source.contains("\"parameters\": dictionary")) return ToolSyntax::kObject;
  return ToolSyntax::kUnknown;
}

std::vector<TokenId> tool_marks(const Tokenizer& tokenizer, ToolSyntax syntax) {
  if (syntax == ToolSyntax::kNone || syntax == ToolSyntax::kUnknown) return {};
  std::vector<TokenId> out;
  for (const std::string_view mark : {kTagMark, kEndTagMark, kListMark, kArguments, kCallId, kPython}) {
    const auto ids = tokenizer.encode(mark, {.add_special = false, .parse_special = true});
    if (ids.ok() && ids->size() == 1 && tokenizer.is_special(ids->front())) out.push_back(ids->front());
  }
  return out;
}

ToolCallReader::ToolCallReader(ToolSyntax syntax)
    : syntax_(syntax), at_(syntax == ToolSyntax::kObject ? At::kStart : At::kContent) {
  BATON_CHECK(syntax != ToolSyntax::kNone && syntax != ToolSyntax::kUnknown);
}

ToolText ToolCallReader::push(std::string_view text) {
  for (const char c : text) feed(c);
  return std::exchange(out_, {});
}

ToolText ToolCallReader::finish() {
  if (at_ == At::kContent) say(held_);
  if (!told_ && !(behind_call_ && at_ == At::kOpen)) say(raw_);  // a lone mark behind calls says nothing
  if (!behind_call_) out_.content += space_;
  held_.clear(), raw_.clear(), space_.clear();
  return std::exchange(out_, {});
}

void ToolCallReader::feed(char c) {
  switch (at_) {
    case At::kStart:
      return on_start(c);
    case At::kContent:
      return on_content(c);
    case At::kOpen:
      return on_open(c);
    case At::kName:
      return on_name(c);
    case At::kMark:
      return on_mark(c);
    case At::kCall:
      return on_call(c);
    case At::kBehind:
      return on_behind(c);
  }
}

// Content; its last white space is kept back.
void ToolCallReader::say(std::string_view text) {
  for (const char c : text) {
    if (is_space(c)) {
      if (!behind_call_) space_ += c;
      continue;
    }
    behind_call_ = false;
    out_.content += std::exchange(space_, {});
    out_.content += c;
  }
}

// Llama: an answer is calls from its first character on, or none at all.
void ToolCallReader::on_start(char c) {
  const bool leading = is_space(c) && lead_ == raw_.size();
  raw_ += c;
  if (leading) {
    ++lead_;
    return;
  }
  const std::string_view begin = std::string_view(raw_).substr(lead_);
  if (begin == "{") return begin_call();
  if (begin == kPython) {
    at_ = At::kOpen;
  } else if (!kPython.starts_with(begin)) {
    say(std::exchange(raw_, {}));
    at_ = At::kContent;
  }
}

void ToolCallReader::on_content(char c) {
  const std::string_view mark = syntax_ == ToolSyntax::kTags ? kTagMark : kListMark;
  if (syntax_ == ToolSyntax::kObject) return say({&c, 1});
  held_ += c;
  if (!mark.starts_with(held_)) {  // the first character of a mark is nowhere else in it
    held_.pop_back();
    say(std::exchange(held_, {}));
    if (c != mark[0]) return say({&c, 1});
    held_ = c;
  }
  if (held_ != mark) return;
  raw_ = std::exchange(held_, {});
  at_ = At::kOpen;
}

void ToolCallReader::on_open(char c) {
  raw_ += c;
  if (is_space(c)) return;
  if (c == '{') return begin_call();
  if (syntax_ != ToolSyntax::kList || in_list_) return no_call(c);
  if (c == '[') {
    in_list_ = true;
  } else if (is_name(c)) {
    name_ = c;
    at_ = At::kName;
  } else {
    no_call(c);
  }
}

void ToolCallReader::on_name(char c) {
  raw_ += c;
  if (is_name(c)) {
    name_ += c;
  } else if (c == '[') {
    held_ = c;
    at_ = At::kMark;
  } else if (c == '{') {
    told_ = false;
    call_.begin_arguments(name_);
    at_ = At::kCall;
    raw_.pop_back();
    on_call(c);
  } else {
    no_call(c);
  }
}

// f[CALL_ID]x[ARGS]{...}: up to the end of [ARGS].
void ToolCallReader::on_mark(char c) {
  raw_ += c;
  held_ += c;
  const bool id = held_.starts_with(kCallId);
  if (held_.ends_with(kArguments) && (id || held_ == kArguments)) {
    held_.clear();
    told_ = false;
    call_.begin_arguments(name_);
    at_ = At::kCall;
  } else if (held_.size() > kMarkBytes ||
             (!id && !kArguments.starts_with(held_) && !kCallId.starts_with(held_))) {
    held_.clear();
    no_call(c);
  }
}

// raw_ ends with the object's first character.
void ToolCallReader::begin_call() {
  told_ = false;
  call_.begin();
  at_ = At::kCall;
  raw_.pop_back();
  on_call('{');
}

void ToolCallReader::on_call(char c) {
  if (!told_) raw_ += c;
  const JsonCall::Step step = call_.feed(c);
  if (step != JsonCall::Step::kBad) tell_call();
  if (step == JsonCall::Step::kDone) return end_call();
  if (step != JsonCall::Step::kBad) return;
  if (!told_) return no_call(c);
  at_ = At::kBehind;  // the rest is no part of it
  told_ = false;
  behind_call_ = true;
  feed(c);
}

void ToolCallReader::tell_call() {
  if (call_.name().empty() || !call_.has_arguments()) return;
  std::string arguments = call_.take_arguments();
  if (told_ && arguments.empty()) return;
  if (!told_ || out_.calls.empty())
    out_.calls.push_back(
        {.index = told_ ? begun_ - 1 : begun_++, .name = told_ ? "" : call_.name(), .arguments = ""});
  out_.calls.back().arguments += arguments;
  told_ = true;
  raw_.clear();
  space_.clear();
}

void ToolCallReader::end_call() {
  if (!told_) {  // without arguments
    out_.calls.push_back({.index = begun_++, .name = call_.name(), .arguments = "{}"});
    raw_.clear();
    space_.clear();
  }
  told_ = false;
  behind_call_ = true;
  ++ended_;
  if (whole_ == begun_ - 1) whole_ = begun_;
  at_ = At::kBehind;
}

// It is content after all, but `c`, which may begin something else.
void ToolCallReader::no_call(char c) {
  raw_.pop_back();
  say(std::exchange(raw_, {}));
  in_list_ = false;
  at_ = At::kContent;
  feed(c);
}

void ToolCallReader::on_behind(char c) {
  if (held_.empty() && is_space(c)) return;
  const bool next = syntax_ == ToolSyntax::kObject ? c == ';' || c == ',' : in_list_ && c == ',';
  if (next) {
    raw_ = c;
    at_ = At::kOpen;
    return;
  }
  if (syntax_ == ToolSyntax::kObject && c == '{') {
    raw_ = c;
    return begin_call();
  }
  if (syntax_ == ToolSyntax::kList && in_list_ && c == ']') {
    in_list_ = false;
    at_ = At::kContent;
    return;
  }
  if (syntax_ == ToolSyntax::kTags && kEndTagMark.starts_with(held_ + c)) {
    held_ += c;
    if (held_ != kEndTagMark) return;
    held_.clear();
    at_ = At::kContent;
    return;
  }
  in_list_ = false;
  at_ = At::kContent;
  const std::string text = std::exchange(held_, {}) + c;
  for (const char again : text) feed(again);
}

}  // namespace baton::text
