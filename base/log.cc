#include "base/log.h"

#include <fcntl.h>
#include <poll.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <mutex>

namespace baton {
namespace {

// A write of so much does not block on a pipe that has room (POSIX: poll says so for PIPE_BUF bytes).
constexpr size_t kSureBytes = 4096;

bool has_room(int fd) {
  pollfd p{.fd = fd, .events = POLLOUT, .revents = 0};
  return ::poll(&p, 1, 0) == 1;  // an error, too: the write returns at once
}

// Writes lines to a descriptor and never waits for who reads them: a line for which there is no room is left
// out, or cut, and how many were is said as soon as there is room again. Thread: any.
class LineSink : public spdlog::sinks::base_sink<std::mutex> {
 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    const int fd = descriptor();
    if (lost_ > 0 && !(has_room(fd) && write_line(fd, lost_message(message)))) {
      ++lost_;
      return;
    }
    lost_ = write_line(fd, message) ? 0 : 1;
  }
  void flush_() override {}
  virtual int descriptor() { return STDERR_FILENO; }

 private:
  spdlog::details::log_msg lost_message(const spdlog::details::log_msg& like) {
    text_ = "\"msg\":\"log lines were left out: whoever reads them had stopped\",\"lines\":" +
            std::to_string(lost_);
    return {like.time, {}, like.logger_name, spdlog::level::warn, text_};
  }
  bool write_line(int fd, const spdlog::details::log_msg& message) {
    spdlog::memory_buf_t line;
    if (cut_) line.push_back('\n');
    spdlog::memory_buf_t text;
    formatter_->format(message, text);
    line.append(text.data(), text.data() + text.size());
    struct stat file{};
    const bool regular = ::fstat(fd, &file) == 0 && S_ISREG(file.st_mode);  // never waits; in one write
    for (size_t at = 0; at < line.size();) {
      if (!regular && !has_room(fd)) {
        cut_ = at > 0;
        return false;
      }
      const size_t size = regular ? line.size() - at : std::min(line.size() - at, kSureBytes);
      const ssize_t n = ::write(fd, line.data() + at, size);
      if (n <= 0) break;  // a full disk, nobody there: as good as written
      at += static_cast<size_t>(n);
    }
    cut_ = false;
    return true;
  }

  size_t lost_ = 0;   // lines, since the last that was written
  bool cut_ = false;  // the last line has no end
  std::string text_;
};

// Appends to whatever has that name now: a file that was rotated or removed is made anew. What cannot be
// opened is said on stderr.
class NamedFileSink final : public LineSink {
 public:
  explicit NamedFileSink(std::string name) : name_(std::move(name)) { open(); }
  ~NamedFileSink() override {
    if (fd_ >= 0) ::close(fd_);
  }
  NamedFileSink(const NamedFileSink&) = delete;
  NamedFileSink& operator=(const NamedFileSink&) = delete;

 protected:
  int descriptor() override {
    if (!has_name()) open();
    return fd_ >= 0 ? fd_ : STDERR_FILENO;
  }

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
    logger = std::make_shared<spdlog::logger>("baton", std::make_shared<LineSink>());
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
