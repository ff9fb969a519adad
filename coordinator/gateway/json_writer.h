#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace baton::coordinator {

// Builds one JSON text, compact, in the order of the calls. Strings that are no UTF-8 get U+FFFD; numbers
// that JSON cannot say (infinities) become the nearest double, NaN null. Thread: its owner.
//
//   JsonWriter w; w.open('{').key("a").value(1).key("b").open('[').value("x").close(']').close('}');
//   {"a":1,"b":["x"]}
class JsonWriter {
 public:
  JsonWriter() = default;
  // Goes on with a text that ends behind an item.
  explicit JsonWriter(std::string text) : text_(std::move(text)), fresh_(false) {}
  JsonWriter& open(char bracket) {
    separate();
    text_ += bracket;
    fresh_ = true;
    return *this;
  }
  JsonWriter& close(char bracket) {
    text_ += bracket;
    fresh_ = false;
    return *this;
  }
  JsonWriter& key(std::string_view name);
  JsonWriter& value(std::string_view text);
  JsonWriter& value(const char* text) { return value(std::string_view(text)); }
  JsonWriter& value(const std::string& text) { return value(std::string_view(text)); }
  JsonWriter& value(bool flag) { return raw(flag ? "true" : "false"); }
  JsonWriter& value(double number);
  JsonWriter& value(float number);
  template <std::integral Integer>
    requires(!std::same_as<Integer, bool>)
  JsonWriter& value(Integer number) {
    return raw(std::to_string(number));
  }
  JsonWriter& null() { return raw("null"); }
  // `json` is a JSON text already.
  JsonWriter& raw(std::string_view json) {
    separate();
    text_ += json;
    return *this;
  }
  template <class T>
  JsonWriter& field(std::string_view name, const T& v) {
    key(name);
    return value(v);
  }

  const std::string& text() const { return text_; }
  std::string take() { return std::move(text_); }

 private:
  void separate() {
    if (!fresh_) text_ += ',';
    fresh_ = false;
  }
  std::string text_;
  bool fresh_ = true;  // nothing before the next item in its list
};

// `bytes` with everything that is no UTF-8 replaced by U+FFFD, one per maximal broken part.
std::string to_utf8(std::string_view bytes);

}  // namespace baton::coordinator
