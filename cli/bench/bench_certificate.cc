#include "cli/bench/bench_certificate.h"

#include <openssl/evp.h>
#include <openssl/pem.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "base/cat.h"
#include "transport/tls/openssl_owner.h"

namespace baton::cli {
namespace {

constexpr const char* kName = "bench";
constexpr long kSeconds = 24 * 3600;

using transport::Certificate;
using transport::File;
using transport::Key;

bool sign(X509* certificate, EVP_PKEY* key) {
  X509_NAME* name = ::X509_get_subject_name(certificate);
  return ::X509_set_version(certificate, 2) == 1 &&
         ::ASN1_INTEGER_set(::X509_get_serialNumber(certificate), 1) == 1 &&
         ::X509_gmtime_adj(::X509_getm_notBefore(certificate), -60) != nullptr &&
         ::X509_gmtime_adj(::X509_getm_notAfter(certificate), kSeconds) != nullptr &&
         ::X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>(kName),
                                      -1, -1, 0) == 1 &&
         ::X509_set_issuer_name(certificate, name) == 1 && ::X509_set_pubkey(certificate, key) == 1 &&
         ::X509_sign(certificate, key, ::EVP_sha256()) > 0;
}

}  // namespace

BenchCertificate::~BenchCertificate() {
  std::error_code none;
  if (!folder_.empty()) std::filesystem::remove_all(folder_, none);
}

absl::Status BenchCertificate::make() {
  if (!folder_.empty()) return absl::OkStatus();  // the lane was asked for twice
  std::string name = (std::filesystem::temp_directory_path() / "baton_bench_XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) return absl::UnavailableError(cat("no folder ", name));
  folder_ = name;
  const Key key(EVP_EC_gen("P-256"));
  const Certificate certificate(::X509_new());
  const transport::StreamSecurity files = security();
  const File pem(std::fopen(files.certificate.c_str(), "we"));
  const File key_pem(std::fopen(files.key.c_str(), "we"));
  if (!key || !certificate || !pem || !key_pem || !sign(certificate.get(), key.get()) ||
      ::PEM_write_X509(pem.get(), certificate.get()) != 1 ||
      ::PEM_write_PrivateKey(key_pem.get(), key.get(), nullptr, nullptr, 0, nullptr, nullptr) != 1)
    return absl::UnavailableError(cat("no certificate in ", folder_));
  return absl::OkStatus();
}

transport::StreamSecurity BenchCertificate::security() const {
  return {.ca = cat(folder_, "/bench.pem"),
          .certificate = cat(folder_, "/bench.pem"),
          .key = cat(folder_, "/bench.key"),
          .peer_name = kName};
}

}  // namespace baton::cli
