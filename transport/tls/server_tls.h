#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"
#include "transport/tls/watched_files.h"

// OpenSSL's types, for the one file that includes it.
struct ssl_ctx_st;
struct ssl_st;

namespace baton::transport {

class TlsSession;

// How a server shows who it is to anybody who connects: a certificate (with the chain up to its authority)
// and its key, PEM files. TLS 1.2 and 1.3, HTTP/1.1 by ALPN. Thread: one. Errors of create(): the file and
// what is wrong with it.
class ServerTls {
 public:
  static absl::StatusOr<std::unique_ptr<ServerTls>> create(const std::string& certificate,
                                                           const std::string& key);
  // For the next connection. Files that have changed are read again first; when they are no good that is
  // logged, and what was read before stays.
  std::unique_ptr<TlsSession> accept();

 private:
  struct Free {
    void operator()(ssl_ctx_st* context) const;
  };
  ServerTls(std::string certificate, std::string key);
  absl::Status read();

  const std::string certificate_, key_;
  WatchedFiles files_;
  std::unique_ptr<ssl_ctx_st, Free> context_;
};

// The server's side of one connection under TLS, as an exchange of bytes: no socket, no waiting; how much is
// kept for a slow peer is its owner's to bound. Thread: that of its ServerTls's owner, one at a time.
class TlsSession {
 public:
  // kEnded: the peer said that it sends no more. kPlain: it speaks HTTP without TLS. kBroken: what came is no
  // TLS, or the peer refused us; final, failure() says why.
  enum class State : uint8_t { kOpen, kEnded, kPlain, kBroken };
  explicit TlsSession(ssl_ctx_st* context);
  ~TlsSession();
  TlsSession(const TlsSession&) = delete;
  TlsSession& operator=(const TlsSession&) = delete;

  // Takes all of `bytes` as they came; appends what they say to `text` and what must be answered to `wire`.
  State receive(std::string_view bytes, std::string& text, std::string& wire);
  // Appends `text`, encrypted, to `wire`. Once established.
  void send(std::string_view text, std::string& wire);
  // Appends the end of what is sent, the first time; false: there is nothing to say.
  bool close(std::string& wire);
  bool established() const { return established_; }
  const std::string& failure() const { return failure_; }

 private:
  friend struct TlsBytes;  // OpenSSL's way to them
  struct Free {
    void operator()(ssl_st* ssl) const;
  };
  State ended(int result);

  std::unique_ptr<ssl_st, Free> ssl_;
  std::string_view input_;       // not yet read; inside receive() only
  std::string* wire_ = nullptr;  // inside a call only
  bool established_ = false;
  bool closed_ = false;
  State state_ = State::kOpen;
  std::string failure_;
};

}  // namespace baton::transport
