#include "base/log.h"

#include <fcntl.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <cmath>
#include <cstdio>
#include <mutex>

namespace baton {
namespace {

// Appends to whatever has that name now: a file that was rotated or removed is made anew. What cannot be
// opened is said on stderr.
class NamedFileSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit NamedFileSink(std::string name) : name_(std::move(name)) { open(); }
  ~NamedFileSink() override {
    if (fd_ >= 0) ::close(fd_);
  }
  NamedFileSink(const NamedFileSink&) = delete;
  NamedFileSink& operator=(const NamedFileSink&) = delete;

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    if (!has_name()) open();
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    (void)!::write(fd_ >= 0 ? fd_ : STDERR_FILENO, line.data(), line.size());
  }
  void flush_() override {}

 private:
  bool has_name() const {
    struct stat mine{}, there{};
    return fd_ >= 0 && ::fstat(fd_, &mine) == 0 && ::stat(name_.c_str(), &there) == 0 &&
           mine.st_ino == there.st_ino && mine.st_dev == there.st_dev;
  }
  void open() {
    const int fd = ::open(name_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) return;  // the old one, if there is one, goes on
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }

  const std::string name_;
  int fd_ = -1;
};

// Length of the valid UTF-8 character at text[at], or 0.
size_t utf8_length(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(at);
  const size_t length = first < 0x80                    ? 1
                        : first >= 0xC2 && first < 0xE0 ? 2
                        : (first & 0xF0) == 0xE0        ? 3
                        : first >= 0xF0 && first < 0xF5 ? 4
                                                        : 0;
  if (length == 0 || at + length > text.size()) return 0;
  for (size_t i = 1; i < length; ++i)
    if ((byte(at + i) & 0xC0) != 0x80) return 0;
  if (first == 0xE0 && byte(at + 1) < 0xA0) return 0;
  if (first == 0xED && byte(at + 1) > 0x9F) return 0;
  if (first == 0xF0 && byte(at + 1) < 0x90) return 0;
  if (first == 0xF4 && byte(at + 1) > 0x8F) return 0;
  return length;
}

std::string value_text(const std::variant<std::string, int64_t, double, bool>& value) {
  if (const auto* s = std::get_if<std::string>(&value)) return '"' + json_escaped(*s) + '"';
  if (const auto* i = std::get_if<int64_t>(&value)) return std::to_string(*i);
  if (const auto* b = std::get_if<bool>(&value)) return *b ? "true" : "false";
  const double d = std::get<double>(value);
  if (!std::isfinite(d)) return "null";
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.9g", d);
  return buffer;
}

spdlog::level::level_enum spd_level(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarn:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

}  // namespace

std::string json_escaped(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const size_t length = utf8_length(text, at);
    const unsigned char c = static_cast<unsigned char>(text[at]);
    if (length == 0) {
      out += "\\ufffd";
      ++at;
    } else if (length > 1) {
      out.append(text.substr(at, length));
      at += length;
    } else {
      if (c == '"' || c == '\\') {
        out += '\\';
        out += static_cast<char>(c);
      } else if (c < 0x20 || c == 0x7f) {
        char buffer[8];
        std::snprintf(buffer, sizeof buffer, "\\u%04x", c);
        out += buffer;
      } else {
        out += static_cast<char>(c);
      }
      ++at;
    }
  }
  return out;
}

void log_open(const LogOptions& options) {
  std::shared_ptr<spdlog::logger> logger;
  spdlog::drop("baton");
  if (options.file.empty()) {
    logger = spdlog::stderr_logger_mt("baton");
  } else {
    logger = std::make_shared<spdlog::logger>("baton", std::make_shared<NamedFileSink>(options.file));
  }
  std::string pattern = R"({"ts":"%Y-%m-%dT%H:%M:%S.%eZ","level":"%l",)";
  pattern += "\"role\":\"" + json_escaped(options.role) + "\",\"worker\":\"" + json_escaped(options.worker) +
             "\",%v}";
  logger->set_pattern(pattern, spdlog::pattern_time_type::utc);
  logger->set_level(spd_level(options.level));
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(logger);
}

void log(LogLevel level, std::string_view message, std::initializer_list<LogField> fields) {
  spdlog::logger* logger = spdlog::default_logger_raw();
  if (!logger->should_log(spd_level(level))) return;
  std::string line = "\"msg\":\"" + json_escaped(message) + '"';
  for (const LogField& f : fields) {
    line += ",\"";
    line += json_escaped(f.key);
    line += "\":";
    line += value_text(f.value);
  }
  logger->log(spd_level(level), "{}", line);
}

}  // namespace baton
