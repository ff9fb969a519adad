#include "coordinator/gateway/head_check.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "coordinator/gateway/ascii.h"

namespace baton::coordinator {
namespace {

constexpr std::string_view kBodyTooLarge =
    "the request body is too large (spec.gateway.limits.body of the manifest says how large it may be)";

constexpr size_t kMethodBytes = 16;
constexpr size_t kChunkDigits = 16;
constexpr uint64_t kDroppedBodyBytes = 16 * 1024;  // of a GET

bool is_token_char(char c) { return absl::ascii_isalnum(c) || is_one_of(c, "!#$%&'*+-.^_`|~"); }
bool is_token(std::string_view s) { return !s.empty() && std::all_of(s.begin(), s.end(), is_token_char); }
bool is_digits(std::string_view s) {
  return !s.empty() && std::all_of(s.begin(), s.end(), [](char c) { return absl::ascii_isdigit(c); });
}
// Visible, blank, tab, or one of the bytes 0x80-0xff that RFC 9110 tolerates in values.
bool is_value_char(char c) {
  const auto u = static_cast<unsigned char>(c);
  return u == '\t' || (u >= 0x20 && u != 0x7f);
}

bool is_target_char(char c) { return c > 0x20 && c < 0x7f && !is_one_of(c, "#\"<>\\^`{|}"); }
bool is_clean_target(std::string_view s) {
  if (!std::all_of(s.begin(), s.end(), is_target_char)) return false;
  for (size_t i = s.find('%'); i != std::string_view::npos; i = s.find('%', i + 1))
    if (i + 2 >= s.size() || !absl::ascii_isxdigit(s[i + 1]) || !absl::ascii_isxdigit(s[i + 2])) return false;
  return true;
}

// host, host:port, [v6] or [v6]:port.
bool is_host(std::string_view s) {
  size_t end = 0;
  if (s.starts_with('[')) {
    end = s.find(']');
    if (end == std::string_view::npos || end < 3) return false;
    for (char c : s.substr(1, end - 1))
      if (!absl::ascii_isxdigit(c) && c != ':' && c != '.') return false;
    ++end;
  } else {
    while (end < s.size() && (absl::ascii_isalnum(s[end]) || is_one_of(s[end], ".-_~"))) ++end;
    if (end == 0) return false;
  }
  const std::string_view port = s.substr(end);
  return port.empty() || (port[0] == ':' && port.size() <= 6 && is_digits(port.substr(1)));
}

// The quoted string at the front of `s`: how many bytes, quotes included; 0 = none or unclean.
size_t quoted_bytes(std::string_view s) {
  for (size_t i = 1; i < s.size(); ++i) {
    if (!is_value_char(s[i])) return 0;
    if (s[i] == '"') return i + 1;
    if (s[i] == '\\' && (++i >= s.size() || !is_value_char(s[i]))) return 0;
  }
  return 0;
}

// ;name ;name=token ;name="quoted", repeated, without blanks.
bool is_chunk_extension(std::string_view s) {
  while (!s.empty()) {
    if (s[0] != ';') return false;
    s.remove_prefix(1);
    const size_t name = std::find_if_not(s.begin(), s.end(), is_token_char) - s.begin();
    if (name == 0) return false;
    s.remove_prefix(name);
    if (!s.starts_with('=')) continue;
    s.remove_prefix(1);
    const size_t value = s.starts_with('"') ? quoted_bytes(s)
                                            : std::find_if_not(s.begin(), s.end(), is_token_char) - s.begin();
    if (value == 0) return false;
    s.remove_prefix(value);
  }
  return true;
}

}  // namespace

bool valid_request_id(std::string_view id) {
  return !id.empty() && id.size() <= 64 && std::all_of(id.begin(), id.end(), [](char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
  });
}

void HeadCheck::reject(int status, std::string_view reason) {
  if (rejected()) return;
  phase_ = Phase::kRejected;
  status_ = status;
  reason_ = reason;
  body_.clear();
}

size_t HeadCheck::feed(std::string_view bytes) {
  size_t taken = 0;
  while (taken < bytes.size() && phase_ < Phase::kComplete) {
    if (phase_ == Phase::kFixedBody || phase_ == Phase::kChunkBytes) {
      taken += take_body_bytes(bytes.substr(taken));
    } else if (phase_ <= Phase::kFields) {
      take_head_byte(bytes[taken++]);
    } else {
      take_framing_byte(bytes[taken++]);
    }
  }
  return taken;
}

size_t HeadCheck::take_body_bytes(std::string_view bytes) {
  const size_t n = static_cast<size_t>(std::min<uint64_t>(left_, bytes.size()));
  if (!drops_body_) body_.append(bytes.substr(0, n));
  left_ -= n;
  if (left_ == 0) phase_ = phase_ == Phase::kFixedBody ? Phase::kComplete : Phase::kChunkEnd;
  return n;
}

bool HeadCheck::push_line(char c) {
  const bool after_cr = !line_.empty() && line_.back() == '\r';
  if (c == '\n') {
    if (!after_cr) {
      reject(400, "a line must end in CR LF, not in LF alone");
      return false;
    }
    line_.pop_back();
    return true;
  }
  if (after_cr) {
    reject(400, "CR without LF");
  } else if (c == '\0') {
    reject(400, "NUL byte in the head");
  } else {
    line_ += c;
  }
  return false;
}

void HeadCheck::take_head_byte(char c) {
  head_ += c;
  const bool whole = push_line(c);
  if (rejected()) return;
  if (head_.size() > limits_.head_bytes) return reject(431, "the request head is too large");
  if (!whole) {
    if (phase_ == Phase::kRequestLine && line_.size() > limits_.url_bytes + kMethodBytes + 12)
      reject(414, "the request target is too long");
    return;
  }
  if (phase_ == Phase::kRequestLine && line_.empty() && !skipped_empty_line_) {
    skipped_empty_line_ = true;
    head_.clear();  // the parser behind never sees it
  } else if (phase_ == Phase::kRequestLine) {
    check_request_line();
  } else if (line_.empty()) {
    end_head();
  } else {
    check_field();
  }
  line_.clear();
}

void HeadCheck::check_request_line() {
  const std::string_view line = line_;
  const size_t first = line.find(' ');
  const size_t last = line.rfind(' ');
  if (first == std::string_view::npos || first == last) return reject(400, "malformed request line");
  const std::string_view method = line.substr(0, first);
  const std::string_view target = line.substr(first + 1, last - first - 1);
  const std::string_view version = line.substr(last + 1);
  if (method.empty() || method.size() > kMethodBytes ||
      !std::all_of(method.begin(), method.end(), [](char c) { return absl::ascii_isupper(c); }))
    return reject(400, "malformed method");
  if (version != "HTTP/1.1" && version != "HTTP/1.0")
    return reject(400, "only HTTP/1.1 and HTTP/1.0 are spoken");
  http_1_0_ = version == "HTTP/1.0";
  method_ = method;
  check_target(target);
  if (!rejected()) phase_ = Phase::kFields;
}

void HeadCheck::check_target(std::string_view target) {
  if (target.size() > limits_.url_bytes) return reject(414, "the request target is too long");
  if (target.empty() || !is_clean_target(target)) return reject(400, "malformed request target");
  const bool asterisk = target == "*" && method_ == "OPTIONS";
  const bool absolute = equal_ignoring_case(target.substr(0, 7), "http://") ||
                        equal_ignoring_case(target.substr(0, 8), "https://");
  if (method_ == "CONNECT" || (target[0] != '/' && !asterisk && !absolute))
    return reject(400, "the request target must be a path");
  target_ = target;
}

void HeadCheck::check_field() {
  if (++fields_ > limits_.fields) return reject(431, "too many header fields");
  if (line_[0] == ' ' || line_[0] == '\t') return reject(400, "folded header field");
  const std::string_view line = line_;
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return reject(400, "header field without a colon");
  if (!is_token(line.substr(0, colon))) return reject(400, "malformed header field name");
  const std::string_view value = trim(line.substr(colon + 1));
  if (!std::all_of(value.begin(), value.end(), is_value_char))
    return reject(400, "control character in a header field");
  check_known_field(lower_case(line.substr(0, colon)), value);
}

void HeadCheck::check_known_field(std::string_view name, std::string_view value) {
  if (name == "host") {
    check_host(value);
  } else if (name == "content-length") {
    check_content_length(value);
  } else if (name == "transfer-encoding") {
    if (chunked_ || !equal_ignoring_case(value, "chunked"))
      return reject(400, "Transfer-Encoding must be exactly `chunked`, once");
    chunked_ = true;
  } else if (name == "connection") {
    if (list_holds(value, "close")) keep_alive_ = false;
  } else if (name == "expect") {
    if (!equal_ignoring_case(value, "100-continue")) return reject(400, "unknown expectation");
    expects_continue_ = true;
  } else if (name == "content-encoding") {
    if (!equal_ignoring_case(value, "identity"))
      return reject(415, "Content-Encoding is not supported: send the body as it is");
  }
}

void HeadCheck::check_host(std::string_view value) {
  if (has_host_) return reject(400, "more than one Host field");
  if (!is_host(value)) return reject(400, "malformed Host field");
  has_host_ = true;
  host_ = value;
}

void HeadCheck::check_content_length(std::string_view value) {
  if (has_length_) return reject(400, "more than one Content-Length field");
  if (!is_digits(value) || value.size() > 18 || (value.size() > 1 && value[0] == '0'))
    return reject(400, "malformed Content-Length");
  has_length_ = true;
  for (char c : value) content_length_ = content_length_ * 10 + static_cast<uint64_t>(c - '0');
}

void HeadCheck::check_absolute_target() {
  std::string_view rest = std::string_view(target_).substr(target_.find("//") + 2);
  const size_t end = std::min(rest.find_first_of("/?"), rest.size());
  if (!equal_ignoring_case(rest.substr(0, end), host_))
    return reject(400, "the request target names another host than the Host field");
  std::string origin(rest.substr(end));
  if (!origin.starts_with('/')) origin.insert(0, "/");
  target_ = std::move(origin);
}

void HeadCheck::end_head() {
  if (!has_host_ && !http_1_0_) return reject(400, "the Host field is missing");
  if (target_[0] != '/' && target_ != "*") check_absolute_target();
  if (rejected()) return;
  if (chunked_ && has_length_) return reject(400, "Content-Length together with Transfer-Encoding");
  if (chunked_ && http_1_0_) return reject(400, "Transfer-Encoding in an HTTP/1.0 request");
  const bool may_have_body = method_ == "POST" || method_ == "PUT" || method_ == "PATCH";
  drops_body_ = method_ == "GET" && content_length_ > 0 && content_length_ <= kDroppedBodyBytes;
  if (drops_body_) keep_alive_ = false;  // who saw no body there must not have its bytes taken for a request
  if (!may_have_body && !drops_body_ && (chunked_ || content_length_ > 0))
    return reject(400, "this method takes no body");
  if (may_have_body && !chunked_ && !has_length_) return reject(411, "Content-Length is missing");
  if (content_length_ > limits_.body_bytes) return reject(413, kBodyTooLarge);
  left_ = content_length_;
  phase_ = chunked_ ? Phase::kChunkSize : left_ > 0 ? Phase::kFixedBody : Phase::kComplete;
}

void HeadCheck::take_framing_byte(char c) {
  if (phase_ == Phase::kChunkEnd) return check_chunk_end(c);
  const bool whole = push_line(c);
  if (rejected()) return;
  if (phase_ == Phase::kChunkSize) {
    if (whole) {
      check_chunk_size();
    } else if (line_.size() > kChunkDigits + limits_.chunk_extension_bytes + 1) {
      return reject(400, "the chunk head is too long");
    }
  } else {
    if (++trailer_bytes_ > limits_.head_bytes) return reject(431, "the trailer is too large");
    if (whole) check_trailer();
  }
  if (whole) line_.clear();
}

void HeadCheck::check_chunk_size() {
  const std::string_view line = line_;
  const size_t digits =
      std::find_if_not(line.begin(), line.end(), [](char c) { return absl::ascii_isxdigit(c); }) -
      line.begin();
  const std::string_view extension = line.substr(digits);
  if (digits == 0 || digits > kChunkDigits) return reject(400, "malformed chunk size");
  if (extension.size() > limits_.chunk_extension_bytes) return reject(400, "the chunk extension is too long");
  if (!is_chunk_extension(extension)) return reject(400, "malformed chunk head");
  uint64_t size = 0;
  for (char c : line.substr(0, digits))
    size = size << 4 | static_cast<uint64_t>(absl::ascii_isdigit(c) ? c - '0' : (c | 0x20) - 'a' + 10);
  if (size == 0) {
    phase_ = Phase::kTrailers;
    return;
  }
  if (++chunks_ > limits_.chunks) return reject(413, "too many chunks");
  if (size > limits_.body_bytes - body_.size()) return reject(413, kBodyTooLarge);
  left_ = size;
  phase_ = Phase::kChunkBytes;
}

void HeadCheck::check_chunk_end(char c) {
  if (line_.empty() && c == '\r') {
    line_ = "\r";
  } else if (line_ == "\r" && c == '\n') {
    line_.clear();
    phase_ = Phase::kChunkSize;
  } else {
    reject(400, "a chunk must be followed by CR LF");
  }
}

// Trailers are checked like fields, then dropped; those that would change the framing are refused.
void HeadCheck::check_trailer() {
  if (line_.empty()) {
    phase_ = Phase::kComplete;
    return;
  }
  if (++fields_ > limits_.fields) return reject(431, "too many header fields");
  const std::string_view line = line_;
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos || !is_token(line.substr(0, colon)))
    return reject(400, "malformed trailer field");
  const std::string_view value = line.substr(colon + 1);
  if (!std::all_of(value.begin(), value.end(), is_value_char))
    return reject(400, "control character in a trailer field");
  const std::string name = lower_case(line.substr(0, colon));
  for (std::string_view framing :
       {"content-length", "transfer-encoding", "host", "trailer", "te", "connection", "content-encoding",
        "content-type", "expect", "authorization"})
    if (name == framing) return reject(400, "this field may not stand in a trailer");
}

}  // namespace baton::coordinator
