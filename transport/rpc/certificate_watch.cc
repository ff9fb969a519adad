#include "transport/rpc/certificate_watch.h"

#include <utility>

#include "transport/rpc/tls_files.h"

namespace baton::transport {
namespace {

constexpr int64_t kDay = 24 * 3600;
constexpr int64_t kSoon = 14 * kDay;

}  // namespace

CertificateWatch::CertificateWatch(TlsFiles files, const char* name)
    : watched_{{{.name = name, .file = std::move(files.certificate), .told = std::nullopt},
                {.name = "ca", .file = std::move(files.ca), .told = std::nullopt}}} {}

std::vector<CertificateTerm> CertificateWatch::look(int64_t unix_time) {
  for (Watched& w : watched_)
    if (const std::optional<int64_t> ends = certificate_end(w.file)) w.ends = *ends;
  std::vector<CertificateTerm> out;
  for (Watched& w : watched_) {
    const int64_t left = w.ends == kUnknown ? kSoon : w.ends - unix_time;
    if (left >= kSoon || (w.told && unix_time - *w.told < kDay)) continue;
    w.told = unix_time;
    out.push_back({w.name, w.file, left});
  }
  return out;
}

std::vector<CertificateTerm> CertificateWatch::terms(int64_t unix_time) const {
  std::vector<CertificateTerm> out;
  for (const Watched& w : watched_)
    if (const int64_t ends = w.ends; ends != kUnknown) out.push_back({w.name, w.file, ends - unix_time});
  return out;
}

}  // namespace baton::transport
