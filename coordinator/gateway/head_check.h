#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace baton::coordinator {

struct HttpLimits {
  size_t head_bytes = 16 * 1024;  // request line, fields and the empty line; trailers have the same room
  size_t fields = 100;
  size_t url_bytes = 4 * 1024;
  size_t body_bytes = 8 * 1024 * 1024;
  size_t chunks = 16 * 1024;
  size_t chunk_extension_bytes = 256;
};

// The strict check of one HTTP/1.x request, byte by byte, in front of Beast's parser (Beast 1.81 misses the
// checks against request smuggling). It also finds the end of the message: everything after complete() is the
// next request. Refused, never repaired: Content-Length with Transfer-Encoding, a repeated or unclean
// Content-Length, any Transfer-Encoding but `chunked`, bare CR or LF, NUL, folded fields, space before the
// colon, no or two Host fields, a body where none may be, unclean chunks. Let pass: one empty line in front
// of the request (RFC 9112, 2.2; it is not in head()), and a GET with a Content-Length of 16 KiB at most,
// whose body is dropped and after which the connection ends. The verdict depends on the bytes only, not on
// how they are cut. Thread: its owner. Owns the decoded body. Errors: status() and reason(); feed() then
// takes nothing any more.
//
//   feed("POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhiGET") -> all but "GET"; complete(),
//   body "hi"
class HeadCheck {
 public:
  explicit HeadCheck(HttpLimits limits = {}) : limits_(limits) {}

  // Takes bytes of this request from the front of `bytes`; returns how many.
  size_t feed(std::string_view bytes);

  bool started() const { return !head_.empty(); }  // an empty line in front does not count
  bool head_complete() const { return phase_ > Phase::kFields; }
  bool complete() const { return phase_ == Phase::kComplete; }
  bool rejected() const { return phase_ == Phase::kRejected; }
  int status() const { return status_; }  // 400, 411, 413, 414, 415, 431 when rejected
  std::string_view reason() const { return reason_; }

  // ---- once head_complete() and not rejected()
  std::string_view head() const { return head_; }  // as it came, with the empty line
  std::string_view method() const { return method_; }
  std::string_view target() const { return target_; }  // origin form: an absolute one is reduced to it
  bool http_1_0() const { return http_1_0_; }
  bool chunked() const { return chunked_; }
  uint64_t content_length() const { return content_length_; }
  bool keep_alive() const { return keep_alive_ && !http_1_0_; }
  bool expects_continue() const { return expects_continue_; }
  size_t body_bytes() const { return body_.size(); }
  std::string take_body() { return std::move(body_); }

 private:
  enum class Phase : uint8_t {
    kRequestLine,
    kFields,
    kFixedBody,
    kChunkSize,
    kChunkBytes,
    kChunkEnd,
    kTrailers,
    kComplete,
    kRejected,
  };

  void take_head_byte(char c);
  void take_framing_byte(char c);
  bool push_line(char c);  // true: line_ holds a whole line, without its CRLF
  void check_request_line();
  void check_target(std::string_view target);
  void check_field();
  void check_known_field(std::string_view name, std::string_view value);
  void check_host(std::string_view value);
  void check_content_length(std::string_view value);
  void end_head();
  void check_absolute_target();
  void check_chunk_size();
  void check_chunk_end(char c);
  void check_trailer();
  size_t take_body_bytes(std::string_view bytes);
  void reject(int status, std::string_view reason);

  HttpLimits limits_;
  Phase phase_ = Phase::kRequestLine;
  std::string head_;
  std::string line_;
  std::string method_;
  std::string target_;
  std::string host_;
  std::string body_;
  std::string_view reason_;
  int status_ = 0;
  size_t fields_ = 0;
  size_t trailer_bytes_ = 0;
  size_t chunks_ = 0;
  uint64_t content_length_ = 0;
  uint64_t left_ = 0;  // of the body, or of the chunk
  bool http_1_0_ = false;
  bool has_host_ = false;
  bool has_length_ = false;
  bool chunked_ = false;
  bool keep_alive_ = true;
  bool expects_continue_ = false;
  bool skipped_empty_line_ = false;
  bool drops_body_ = false;
};

// [A-Za-z0-9._-]{1,64}: what x-request-id may be.
bool valid_request_id(std::string_view id);

}  // namespace baton::coordinator
