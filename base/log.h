#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <variant>

namespace baton {

enum class LogLevel : uint8_t { kDebug, kInfo, kWarn, kError };

// One `key: value` of a log line.
struct LogField {
  std::string_view key;
  std::variant<std::string, int64_t, double, bool> value;

  LogField(std::string_view k, std::string_view v) : key(k), value(std::string(v)) {}
  LogField(std::string_view k, const char* v) : key(k), value(std::string(v)) {}
  LogField(std::string_view k, const std::string& v) : key(k), value(v) {}
  LogField(std::string_view k, double v) : key(k), value(v) {}
  LogField(std::string_view k, bool v) : key(k), value(v) {}
  template <class T>
    requires std::is_integral_v<T>
  LogField(std::string_view k, T v) : key(k), value(static_cast<int64_t>(v)) {}
};

struct LogOptions {
  std::string role;    // coordinator, prefill, decode, any, supervisor
  std::string worker;  // name, or empty
  std::string file;    // empty = stderr; moved away or removed, the next line begins a new one
  LogLevel level = LogLevel::kInfo;
};

// Where this process logs to; called once in main. Before it, lines go to stderr. One JSON object a line:
// {"ts":"2026-01-31T12:00:00.000Z","level":"info","role":"prefill","worker":"prefill-0","msg":"...",
// fields...}. State changes at info, details at debug; prompts and outputs never. Thread: any.
void log_open(const LogOptions& options);
void log(LogLevel level, std::string_view message, std::initializer_list<LogField> fields = {});
inline void log_info(std::string_view m, std::initializer_list<LogField> f = {}) {
  log(LogLevel::kInfo, m, f);
}
inline void log_warn(std::string_view m, std::initializer_list<LogField> f = {}) {
  log(LogLevel::kWarn, m, f);
}
inline void log_error(std::string_view m, std::initializer_list<LogField> f = {}) {
  log(LogLevel::kError, m, f);
}
inline void log_debug(std::string_view m, std::initializer_list<LogField> f = {}) {
  log(LogLevel::kDebug, m, f);
}

// `text` as the inside of a JSON string: quotes, control characters and invalid UTF-8 escaped.
std::string json_escaped(std::string_view text);

}  // namespace baton
