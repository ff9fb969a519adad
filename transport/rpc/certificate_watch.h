#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "transport/rpc/security.h"

namespace baton::transport {

// One file's certificate and how long it is still good.
struct CertificateTerm {
  const char* name;  // "certificate", "ca", or what the watch calls its certificate
  std::string file;
  int64_t seconds_left = 0;  // negative: it has ended
};

// How long this process's certificate and its CA are good: read from the files each time that the owner
// looks, because they are renewed while it runs. Thread: look() one, terms() any. Owns nothing but what it
// read; time (unix, seconds) is handed in. Errors: a file that is no certificate now counts as it was before.
class CertificateWatch {
 public:
  // `name`: of the certificate's term. No CA: that alone is watched.
  explicit CertificateWatch(TlsFiles files, const char* name = "certificate");

  // Reads the files. What is to be told: ends within two weeks, and was not told within a day.
  std::vector<CertificateTerm> look(int64_t unix_time);
  // As last looked at; nothing of a file that never was a certificate.
  std::vector<CertificateTerm> terms(int64_t unix_time) const;

 private:
  struct Watched {
    const char* name;
    std::string file;
    std::atomic<int64_t> ends = kUnknown;
    std::optional<int64_t> told;
  };
  static constexpr int64_t kUnknown = INT64_MIN;
  std::array<Watched, 2> watched_;
};

}  // namespace baton::transport
