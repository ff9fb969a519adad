#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/status.h"
#include "transport/tls/watched_files.h"

// OpenSSL's types, for the one file that includes it.
struct ssl_ctx_st;
struct ssl_st;

namespace baton::transport {

// How connections between workers, and between the ranks of one, protect themselves: PEM files of this
// process and of the cluster's own CA, and the name that a peer's certificate must carry.
struct StreamSecurity {
  std::string ca;
  std::string certificate;
  std::string key;
  std::string peer_name;
  // A new key after so many records: TLS lets AES-GCM encrypt 2^24.5 with one.
  uint64_t rekey_records = uint64_t{1} << 22;
};

// The files of StreamSecurity, read. TLS 1.3 only, both sides show a certificate, no resumption.
class TlsContext {
 public:
  static absl::StatusOr<std::unique_ptr<TlsContext>> create(const StreamSecurity& security);
  // Reads the files again if one of them has changed: streams made from then on show what is in them now.
  // Files that are no good are logged, and what was read before stays.
  void refresh();

 private:
  friend class TlsStream;
  struct Free {
    void operator()(ssl_ctx_st* context) const;
  };
  TlsContext() = default;
  StreamSecurity security_;
  std::optional<WatchedFiles> files_;
  std::unique_ptr<ssl_ctx_st, Free> context_;
};

// TLS over one connected, non-blocking socket: what sendmsg() and recvmsg() are without it. Records are made
// of what is given (up to 16 KiB each, small parts joined) and leave in large writes. The peer's certificate
// is verified, name and dates too, before the first byte is given or taken. Thread: one at a time. Owns:
// OpenSSL's state and what is encrypted and not sent; not the descriptor. Errors: failed() with failure() and
// fault(), final; but what the peer said before it went can still be read when sending has failed.
class TlsStream {
 public:
  enum class Side : uint8_t { kConnects, kAccepts };
  // kGone: the connection ended. kPlain: the peer does not speak TLS. kRefused: one of both does not take the
  // other, its certificate most likely. kBroken: what came is no TLS of this connection.
  enum class Fault : uint8_t { kNone, kGone, kPlain, kRefused, kBroken };
  TlsStream(const TlsContext& context, int descriptor, Side side);
  ~TlsStream();
  TlsStream(const TlsStream&) = delete;
  TlsStream& operator=(const TlsStream&) = delete;

  // Takes from the front of `parts` what there is room for, and sends; 0: nothing now (or failed).
  size_t write(std::span<const iovec> parts);
  // Sends what waits; true when nothing does.
  bool drain();
  // Encrypted bytes wait for the kernel.
  bool wants_to_write() const { return sent_ < encrypted_.size(); }
  // Fills `parts` in order with what has come; 0: nothing now (or failed).
  size_t read(std::span<const iovec> parts);
  // Both sides know each other.
  bool established() const { return established_; }
  bool failed() const { return failure_.has_value(); }
  const std::string& failure() const { return *failure_; }
  Fault fault() const { return fault_; }

 private:
  friend struct TlsSocket;  // OpenSSL's way to the descriptor
  struct Free {
    void operator()(ssl_st* ssl) const;
  };
  bool ready();
  bool encrypt(const void* bytes, size_t count);
  void ended(int result, const char* doing);
  void fail(Fault fault, std::string why);

  const int descriptor_;
  const uint64_t rekey_records_;
  std::unique_ptr<ssl_st, Free> ssl_;
  bool established_ = false;
  std::optional<std::string> failure_;
  Fault fault_ = Fault::kNone;
  std::string encrypted_;  // [sent_, end) waits
  size_t sent_ = 0;
  uint64_t since_key_ = 0;  // records
};

}  // namespace baton::transport
