#include "transport/rpc/tls_files.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>

#include "base/cat.h"
#include "transport/tls/openssl_owner.h"

namespace baton::transport {
namespace {

int no_password(char*, int, int, void*) { return 0; }

// All certificates of a PEM file; the reason when there is none.
absl::StatusOr<std::vector<Certificate>> read_certificates(const std::string& path) {
  const File file(std::fopen(path.c_str(), "re"));
  if (!file) return absl::NotFoundError(cat(path, ": ", std::strerror(errno)));
  std::vector<Certificate> out;
  while (X509* one = PEM_read_X509(file.get(), nullptr, no_password, nullptr)) out.emplace_back(one);
  ERR_clear_error();
  if (out.empty())
    return absl::InvalidArgumentError(cat(path,
                                          ": no certificate in it; want a PEM file with "
                                          "-----BEGIN CERTIFICATE-----"));
  return out;
}

absl::StatusOr<Key> read_key(const std::string& path) {
  const File file(std::fopen(path.c_str(), "re"));
  if (!file) return absl::NotFoundError(cat(path, ": ", std::strerror(errno)));
  Key key(PEM_read_PrivateKey(file.get(), nullptr, no_password, nullptr));
  ERR_clear_error();
  if (!key)
    return absl::InvalidArgumentError(
        cat(path,
            ": no private key in it; want a PEM file without a password, with -----BEGIN PRIVATE "
            "KEY-----"));
  return key;
}

std::string day_of(const ASN1_TIME* time) {
  std::tm tm{};
  if (ASN1_TIME_to_tm(time, &tm) != 1) return "an unknown day";
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M UTC", &tm);
  return text;
}

// Empty: valid at `unix_time`.
std::string out_of_date(X509* certificate, int64_t unix_time) {
  time_t now = unix_time;
  if (X509_cmp_time(X509_get0_notAfter(certificate), &now) < 0)
    return cat("expired on ", day_of(X509_get0_notAfter(certificate)), "; make a new one");
  if (X509_cmp_time(X509_get0_notBefore(certificate), &now) > 0)
    return cat("not valid before ", day_of(X509_get0_notBefore(certificate)),
               "; is this machine's clock right?");
  return "";
}

// Empty: the CA, or a chain in the file, signed the first certificate.
std::string chain_mistake(const std::vector<Certificate>& chain, const std::vector<Certificate>& ca,
                          int64_t unix_time) {
  const Store store(X509_STORE_new());
  const StoreContext context(X509_STORE_CTX_new());
  STACK_OF(X509)* between = sk_X509_new_null();
  for (const Certificate& c : ca) X509_STORE_add_cert(store.get(), c.get());
  for (size_t i = 1; i < chain.size(); ++i) sk_X509_push(between, chain[i].get());
  std::string out;
  if (X509_STORE_CTX_init(context.get(), store.get(), chain[0].get(), between) == 1) {
    X509_VERIFY_PARAM_set_time(X509_STORE_CTX_get0_param(context.get()), unix_time);
    if (X509_verify_cert(context.get()) != 1)
      out = X509_verify_cert_error_string(X509_STORE_CTX_get_error(context.get()));
  } else {
    out = "cannot be verified";
  }
  sk_X509_free(between);
  ERR_clear_error();
  return out;
}

bool carries_name(X509* certificate, const std::string& name) {
  return X509_check_host(certificate, name.c_str(), name.size(), 0, nullptr) == 1;
}

}  // namespace

std::vector<TlsMistake> check_tls_files(const TlsFiles& files, const std::string& own_name,
                                        int64_t unix_time) {
  std::vector<TlsMistake> out;
  const auto wrong = [&out](TlsFile file, std::string text) { out.push_back({file, std::move(text)}); };
  const bool has_ca = !files.ca.empty();
  const absl::StatusOr<std::vector<Certificate>> ca =
      has_ca ? read_certificates(files.ca)
             : absl::StatusOr<std::vector<Certificate>>(absl::NotFoundError(""));
  const auto own = read_certificates(files.certificate);
  const auto key = read_key(files.key);
  if (has_ca && !ca.ok()) wrong(TlsFile::kCa, std::string(ca.status().message()));
  if (!own.ok()) wrong(TlsFile::kCertificate, std::string(own.status().message()));
  if (!key.ok()) wrong(TlsFile::kKey, std::string(key.status().message()));
  if (ca.ok())
    if (const std::string late = out_of_date(ca->front().get(), unix_time); !late.empty())
      wrong(TlsFile::kCa, cat(files.ca, ": ", late));
  if (!own.ok()) return out;
  X509* certificate = own->front().get();
  if (key.ok() && X509_check_private_key(certificate, key->get()) != 1) {
    ERR_clear_error();
    wrong(TlsFile::kKey, cat(files.key, ": is not the key of ", files.certificate));
  }
  if (const std::string late = out_of_date(certificate, unix_time); !late.empty()) {
    wrong(TlsFile::kCertificate, cat(files.certificate, ": ", late));
  } else if (const std::string why = ca.ok() ? chain_mistake(*own, *ca, unix_time) : ""; !why.empty()) {
    wrong(TlsFile::kCertificate, cat(files.certificate, ": not signed by ", files.ca, ": ", why));
  }
  if (!own_name.empty() && !carries_name(certificate, own_name))
    wrong(TlsFile::kCertificate, cat(files.certificate, ": does not carry the name '", own_name,
                                     "', which the other side asks for; want subjectAltName DNS:", own_name));
  return out;
}

std::optional<int64_t> certificate_end(const std::string& file) {
  const auto certificates = read_certificates(file);
  std::tm tm{};
  if (!certificates.ok() || ASN1_TIME_to_tm(X509_get0_notAfter(certificates->front().get()), &tm) != 1)
    return std::nullopt;
  return ::timegm(&tm);
}

}  // namespace baton::transport
