#include "transport/tls/tls_stream.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/cat.h"
#include "base/check.h"
#include "base/log.h"

namespace baton::transport {

namespace {

constexpr size_t kRecord = 16 * 1024;      // the largest that TLS has
constexpr size_t kWaiting = 512 * 1024;    // encrypted and not sent, about
constexpr size_t kReadAhead = 256 * 1024;  // asked of the kernel at once

std::string last_error() {
  const unsigned long code = ::ERR_peek_last_error();
  const char* reason = code == 0 ? nullptr : ::ERR_reason_error_string(code);
  ::ERR_clear_error();
  return reason == nullptr ? "unknown error" : reason;
}

}  // namespace

// OpenSSL's way to the socket. What it writes is only collected, so that a write of its never stops half-way.
struct TlsSocket {
  static TlsStream& of(BIO* bio) { return *static_cast<TlsStream*>(::BIO_get_data(bio)); }
  static int write(BIO* bio, const char* bytes, int count) {
    of(bio).encrypted_.append(bytes, static_cast<size_t>(count));
    return count;
  }
  static int read(BIO* bio, char* to, int count) {
    BIO_clear_retry_flags(bio);
    const ssize_t n = ::recv(of(bio).descriptor_, to, static_cast<size_t>(count), MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) BIO_set_retry_read(bio);
    return static_cast<int>(n);
  }
  static long control(BIO*, int what, long, void*) { return what == BIO_CTRL_FLUSH ? 1 : 0; }
  static BIO_METHOD* method() {
    static BIO_METHOD* const made = [] {
      BIO_METHOD* m = ::BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "worker socket");
      BATON_CHECK(m != nullptr && ::BIO_meth_set_write(m, &write) == 1 &&
                      ::BIO_meth_set_read(m, &read) == 1 && ::BIO_meth_set_ctrl(m, &control) == 1,
                  "OpenSSL: no memory");
      return m;
    }();
    return made;
  }
};

// ---- the files
// ------------------------------------------------------------------------------------------------

void TlsContext::Free::operator()(ssl_ctx_st* context) const { ::SSL_CTX_free(context); }

absl::StatusOr<std::unique_ptr<TlsContext>> TlsContext::create(const StreamSecurity& security) {
  ::ERR_clear_error();
  std::unique_ptr<TlsContext> out(new TlsContext);
  out->security_ = security;
  out->files_.emplace(std::vector{security.ca, security.certificate, security.key});
  out->context_.reset(::SSL_CTX_new(::TLS_method()));
  SSL_CTX* context = out->context_.get();
  const auto refuse = [](const std::string& what) {
    return absl::InvalidArgumentError(cat("TLS between workers: ", what, ": ", last_error()));
  };
  if (context == nullptr || SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) != 1 ||
      ::SSL_CTX_set_ciphersuites(
          context, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256") != 1)
    return refuse("start");
  if (::SSL_CTX_load_verify_locations(context, security.ca.c_str(), nullptr) != 1) return refuse(security.ca);
  if (::SSL_CTX_use_certificate_chain_file(context, security.certificate.c_str()) != 1)
    return refuse(security.certificate);
  if (::SSL_CTX_use_PrivateKey_file(context, security.key.c_str(), SSL_FILETYPE_PEM) != 1 ||
      ::SSL_CTX_check_private_key(context) != 1)
    return refuse(security.key);
  if (security.peer_name.empty())
    return absl::InvalidArgumentError("TLS between workers: no name that a peer's certificate must carry");
  ::SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  X509_VERIFY_PARAM* check = ::SSL_CTX_get0_param(context);
  ::X509_VERIFY_PARAM_set_hostflags(check, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
  if (::X509_VERIFY_PARAM_set1_host(check, security.peer_name.c_str(), security.peer_name.size()) != 1)
    return refuse("the peer's name");
  // A certificate is looked at each time that a pair meets; the end of a stream is told by its frames.
  ::SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  ::SSL_CTX_set_num_tickets(context, 0);
  ::SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_IGNORE_UNEXPECTED_EOF);
  ::SSL_CTX_set_default_read_buffer_len(context, kReadAhead);
  SSL_CTX_set_read_ahead(context, 1);
  return out;
}

void TlsContext::refresh() {
  if (!files_->changed()) return;
  auto made = create(security_);
  if (!made.ok()) {
    log_warn("changed certificates are no good: connections go on with those before",
             {{"why", std::string(made.status().message())}});
    return;
  }
  context_ = std::move((*made)->context_);  // streams hold on to theirs
  log_info("connections use the changed certificates from now on", {{"file", security_.certificate}});
}

// ---- a connection
// ----------------------------------------------------------------------------------------------

void TlsStream::Free::operator()(ssl_st* ssl) const { ::SSL_free(ssl); }

TlsStream::TlsStream(const TlsContext& context, int descriptor, Side side)
    : descriptor_(descriptor),
      rekey_records_(context.security_.rekey_records),
      ssl_(::SSL_new(context.context_.get())) {
  BIO* bio = ::BIO_new(TlsSocket::method());
  BATON_CHECK(ssl_ != nullptr && bio != nullptr, "OpenSSL: no memory");
  ::BIO_set_data(bio, this);
  ::BIO_set_init(bio, 1);
  ::SSL_set_bio(ssl_.get(), bio, bio);
  side == Side::kConnects ? ::SSL_set_connect_state(ssl_.get()) : ::SSL_set_accept_state(ssl_.get());
}

TlsStream::~TlsStream() = default;

void TlsStream::fail(Fault fault, std::string why) {
  // Why it went may be read after it was noticed that it did.
  if (failed() && !(fault_ == Fault::kGone && fault == Fault::kRefused)) return;
  failure_ = std::move(why);
  fault_ = fault;
}

// A call of OpenSSL's did not do it: later, never, or the peer has gone.
void TlsStream::ended(int result, const char* doing) {
  const int error = errno;
  switch (::SSL_get_error(ssl_.get(), result)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
      return;
    case SSL_ERROR_ZERO_RETURN:
      return fail(Fault::kGone, "closed by the peer");
    case SSL_ERROR_SYSCALL:
      return fail(Fault::kGone, error == 0 ? "closed by the peer" : cat(doing, ": ", std::strerror(error)));
    default:
      break;
  }
  const long verdict = ::SSL_get_verify_result(ssl_.get());
  if (!established_ && verdict != X509_V_OK) {
    ::ERR_clear_error();
    return fail(Fault::kRefused,
                cat("TLS: the peer's certificate: ", ::X509_verify_cert_error_string(verdict)));
  }
  const int reason = ERR_GET_REASON(::ERR_peek_last_error());
  if (!established_ && (reason == SSL_R_WRONG_VERSION_NUMBER || reason == SSL_R_HTTP_REQUEST)) {
    ::ERR_clear_error();
    return fail(Fault::kPlain, "TLS: the peer does not speak it");
  }
  const bool refused = reason >= SSL_AD_REASON_OFFSET;
  fail(refused ? Fault::kRefused : Fault::kBroken,
       cat(refused ? "TLS: refused by the peer: " : "TLS: ", last_error()));
}

bool TlsStream::ready() {
  if (established_) return true;
  if (failed()) return false;
  ::ERR_clear_error();
  errno = 0;
  const int result = ::SSL_do_handshake(ssl_.get());
  if (result == 1) {
    established_ = true;
  } else {
    ended(result, "TLS handshake");
  }
  drain();
  return established_;
}

bool TlsStream::drain() {
  while (wants_to_write()) {
    const ssize_t n = ::send(descriptor_, encrypted_.data() + sent_, encrypted_.size() - sent_,
                             MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return false;
    if (n < 0) {
      // What the peer said before it closed tells more than that it did.
      if (established_ || !failed()) fail(Fault::kGone, cat("send: ", std::strerror(errno)));
      return false;
    }
    sent_ += static_cast<size_t>(n);
  }
  encrypted_.clear();
  sent_ = 0;
  return true;
}

bool TlsStream::encrypt(const void* bytes, size_t count) {
  if (since_key_ >= rekey_records_) {
    ::SSL_key_update(ssl_.get(), SSL_KEY_UPDATE_NOT_REQUESTED);  // goes before the next record
    since_key_ = 0;
  }
  ::ERR_clear_error();
  errno = 0;
  const int n = ::SSL_write(ssl_.get(), bytes, static_cast<int>(count));
  if (n != static_cast<int>(count)) {
    ended(n, "send");
    if (!failed()) fail(Fault::kBroken, "TLS: a record was not taken");  // cannot be: nothing is in its way
    return false;
  }
  ++since_key_;
  return true;
}

size_t TlsStream::write(std::span<const iovec> parts) {
  if (failed() || !ready() || !drain()) return 0;
  std::array<char, kRecord> joined;
  size_t taken = 0;
  size_t part = 0;
  size_t at = 0;  // in it
  while (part < parts.size() && encrypted_.size() < kWaiting) {
    const char* here = static_cast<const char*>(parts[part].iov_base) + at;
    size_t count = std::min(kRecord, parts[part].iov_len - at);
    if (count == kRecord || part + 1 == parts.size()) {
      at += count;
    } else {  // a record of several parts
      for (count = 0; part < parts.size() && count < kRecord;) {
        const size_t n = std::min(kRecord - count, parts[part].iov_len - at);
        std::memcpy(joined.data() + count, static_cast<const char*>(parts[part].iov_base) + at, n);
        count += n;
        at += n;
        if (at < parts[part].iov_len) continue;
        ++part;
        at = 0;
      }
      here = joined.data();
    }
    if (count > 0 && !encrypt(here, count)) return taken;
    taken += count;
    if (part < parts.size() && at == parts[part].iov_len) {
      ++part;
      at = 0;
    }
  }
  drain();
  return taken;
}

size_t TlsStream::read(std::span<const iovec> parts) {
  if (!established_ && (failed() || !ready())) return 0;
  size_t got = 0;
  for (const iovec& part : parts) {
    for (size_t at = 0; at < part.iov_len;) {
      ::ERR_clear_error();
      errno = 0;
      const int n = ::SSL_read(ssl_.get(), static_cast<char*>(part.iov_base) + at,
                               static_cast<int>(std::min<size_t>(part.iov_len - at, 1 << 30)));
      if (n <= 0) {
        ended(n, "receive");
        return got;
      }
      at += static_cast<size_t>(n);
      got += static_cast<size_t>(n);
    }
  }
  return got;
}

}  // namespace baton::transport
