#pragma once

#include <string>

#include "base/status.h"
#include "transport/tls/tls_stream.h"

namespace baton::cli {

// A certificate for processes of one benchmark, which trust each other by it: it is its own authority, and
// lies in a temporary folder until its maker ends. Thread: one. Owns: the folder. Errors: no place for it.
class BenchCertificate {
 public:
  BenchCertificate() = default;
  ~BenchCertificate();
  BenchCertificate(const BenchCertificate&) = delete;
  BenchCertificate& operator=(const BenchCertificate&) = delete;

  absl::Status make();
  transport::StreamSecurity security() const;

 private:
  std::string folder_;
};

}  // namespace baton::cli
