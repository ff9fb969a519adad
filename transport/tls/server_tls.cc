#include "transport/tls/server_tls.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/cat.h"
#include "base/check.h"
#include "base/log.h"

namespace baton::transport {

namespace {

constexpr size_t kRecord = 16 * 1024;  // the largest that TLS has

std::string last_error() {
  const unsigned long code = ::ERR_peek_last_error();
  const char* reason = code == 0 ? nullptr : ::ERR_reason_error_string(code);
  ::ERR_clear_error();
  return reason == nullptr ? "unknown error" : reason;
}

// What we speak is in a list of the client's (RFC 7301): lengths of one byte, each before its name.
int choose_protocol(SSL*, const unsigned char** out, unsigned char* out_length, const unsigned char* offered,
                    unsigned length, void*) {
  static constexpr unsigned char kHttp[] = "\x08http/1.1";
  unsigned char* chosen = nullptr;
  const int result = ::SSL_select_next_proto(&chosen, out_length, kHttp, sizeof kHttp - 1, offered, length);
  *out = chosen;
  return result == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

}  // namespace

// OpenSSL reads what receive() was given and writes to where its caller said; neither ever waits.
struct TlsBytes {
  static TlsSession& of(BIO* bio) { return *static_cast<TlsSession*>(::BIO_get_data(bio)); }
  static int write(BIO* bio, const char* bytes, int count) {
    of(bio).wire_->append(bytes, static_cast<size_t>(count));
    return count;
  }
  static int read(BIO* bio, char* to, int count) {
    BIO_clear_retry_flags(bio);
    std::string_view& input = of(bio).input_;
    const size_t n = std::min(input.size(), static_cast<size_t>(count));
    if (n == 0) {
      BIO_set_retry_read(bio);
      return -1;
    }
    std::memcpy(to, input.data(), n);
    input.remove_prefix(n);
    return static_cast<int>(n);
  }
  static long control(BIO*, int what, long, void*) { return what == BIO_CTRL_FLUSH ? 1 : 0; }
  static BIO_METHOD* method() {
    static BIO_METHOD* const made = [] {
      BIO_METHOD* m = ::BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "connection's bytes");
      BATON_CHECK(m != nullptr && ::BIO_meth_set_write(m, &write) == 1 &&
                      ::BIO_meth_set_read(m, &read) == 1 && ::BIO_meth_set_ctrl(m, &control) == 1,
                  "OpenSSL: no memory");
      return m;
    }();
    return made;
  }
};

// ---- the files

void ServerTls::Free::operator()(ssl_ctx_st* context) const { ::SSL_CTX_free(context); }

ServerTls::ServerTls(std::string certificate, std::string key)
    : certificate_(std::move(certificate)), key_(std::move(key)), files_({certificate_, key_}) {}

absl::StatusOr<std::unique_ptr<ServerTls>> ServerTls::create(const std::string& certificate,
                                                             const std::string& key) {
  std::unique_ptr<ServerTls> out(new ServerTls(certificate, key));
  RETURN_IF_ERROR(out->read());
  return out;
}

absl::Status ServerTls::read() {
  ::ERR_clear_error();
  std::unique_ptr<ssl_ctx_st, Free> made(::SSL_CTX_new(::TLS_server_method()));
  SSL_CTX* context = made.get();
  const auto refuse = [](const std::string& what) {
    return absl::InvalidArgumentError(cat(what, ": ", last_error()));
  };
  if (context == nullptr || SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) != 1 ||
      ::SSL_CTX_set_cipher_list(context, "ECDHE+AESGCM:ECDHE+CHACHA20") != 1)
    return refuse("TLS cannot be started");
  if (::SSL_CTX_use_certificate_chain_file(context, certificate_.c_str()) != 1) return refuse(certificate_);
  if (::SSL_CTX_use_PrivateKey_file(context, key_.c_str(), SSL_FILETYPE_PEM) != 1 ||
      ::SSL_CTX_check_private_key(context) != 1)
    return refuse(key_);
  ::SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                     SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
  SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);  // a connection at rest keeps none
  ::SSL_CTX_set_alpn_select_cb(context, &choose_protocol, nullptr);
  context_ = std::move(made);  // sessions hold on to theirs
  return absl::OkStatus();
}

std::unique_ptr<TlsSession> ServerTls::accept() {
  if (files_.changed()) {
    if (const absl::Status s = read(); s.ok())
      log_info("new connections are shown the changed certificate", {{"file", certificate_}});
    else
      log_error("the changed certificate is no good: connections are shown the one before",
                {{"why", std::string(s.message())}});
  }
  return std::make_unique<TlsSession>(context_.get());
}

// ---- a connection

void TlsSession::Free::operator()(ssl_st* ssl) const { ::SSL_free(ssl); }

TlsSession::TlsSession(ssl_ctx_st* context) : ssl_(::SSL_new(context)) {
  BIO* bio = ::BIO_new(TlsBytes::method());
  BATON_CHECK(ssl_ != nullptr && bio != nullptr, "OpenSSL: no memory");
  ::BIO_set_data(bio, this);
  ::BIO_set_init(bio, 1);
  ::SSL_set_bio(ssl_.get(), bio, bio);
  ::SSL_set_accept_state(ssl_.get());
}

TlsSession::~TlsSession() = default;

// A call of OpenSSL's did not do it: it wants more, or there will be none.
TlsSession::State TlsSession::ended(int result) {
  const int error = ::SSL_get_error(ssl_.get(), result);
  if (error == SSL_ERROR_WANT_READ) return State::kOpen;
  if (error == SSL_ERROR_ZERO_RETURN) return State::kEnded;
  const int reason = ERR_GET_REASON(::ERR_peek_last_error());
  const bool plain = !established_ && reason == SSL_R_HTTP_REQUEST;
  failure_ = cat(reason >= SSL_AD_REASON_OFFSET ? "TLS: refused by the client: " : "TLS: ", last_error());
  return plain ? State::kPlain : State::kBroken;
}

TlsSession::State TlsSession::receive(std::string_view bytes, std::string& text, std::string& wire) {
  if (state_ != State::kOpen) return state_;
  input_ = bytes;
  wire_ = &wire;
  ::ERR_clear_error();
  if (!established_) {
    const int result = ::SSL_do_handshake(ssl_.get());
    established_ = result == 1;
    if (!established_) state_ = ended(result);
  }
  std::array<char, kRecord> record;
  while (established_ && state_ == State::kOpen) {
    const int n = ::SSL_read(ssl_.get(), record.data(), record.size());
    if (n <= 0) {
      state_ = ended(n);
      break;
    }
    text.append(record.data(), static_cast<size_t>(n));
  }
  input_ = {};
  wire_ = nullptr;
  return state_;
}

void TlsSession::send(std::string_view text, std::string& wire) {
  BATON_CHECK(established_, "nothing is said before the handshake");
  wire_ = &wire;
  while (!text.empty() && !closed_ && state_ != State::kBroken) {
    ::ERR_clear_error();
    const size_t count = std::min(text.size(), kRecord);
    const int n = ::SSL_write(ssl_.get(), text.data(), static_cast<int>(count));
    if (n != static_cast<int>(count)) {  // cannot be: nothing is in its way
      failure_ = cat("TLS: a record was not taken: ", last_error());
      state_ = State::kBroken;
    }
    text.remove_prefix(count);
  }
  wire_ = nullptr;
}

bool TlsSession::close(std::string& wire) {
  if (!established_ || std::exchange(closed_, true) || state_ == State::kBroken) return false;
  const size_t before = wire.size();
  wire_ = &wire;
  ::ERR_clear_error();
  ::SSL_shutdown(ssl_.get());
  ::ERR_clear_error();
  wire_ = nullptr;
  return wire.size() > before;
}

}  // namespace baton::transport
