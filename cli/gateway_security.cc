#include "cli/gateway_security.h"

#include <unistd.h>

#include "base/cat.h"
#include "cli/cluster/home.h"
#include "cli/cluster/process.h"
#include "cli/control_security.h"
#include "coordinator/gateway/api_keys.h"
#include "transport/rpc/tls_files.h"

namespace baton::cli {
namespace {

transport::TlsFiles files_of(const GatewayTls& tls) {
  return {.certificate = tls.certificate.path, .key = tls.key.path};
}

bool is_there(const NamedFile& file) { return ::access(file.path.c_str(), F_OK) == 0; }

void check_tls(const GatewayTls& tls, int64_t unix_time, std::vector<std::string>& mistakes) {
  for (const auto& mistake : transport::check_tls_files(files_of(tls), "", unix_time)) {
    const NamedFile& file = mistake.file == transport::TlsFile::kKey ? tls.key : tls.certificate;
    mistakes.push_back(cat(file.place, ": ", mistake.text));
  }
}

void check_keys(const NamedFile& file, std::vector<std::string>& mistakes) {
  const auto text = read_file(file.path);
  const absl::Status status =
      text.ok() ? coordinator::ApiKeys::parse(*text, file.path).status() : text.status();
  if (!status.ok()) mistakes.push_back(cat(file.place, ": ", std::string(status.message())));
}

}  // namespace

absl::Status check_gateway_files(const GatewayManifest& gateway, int64_t unix_time,
                                 std::vector<std::string>* absent) {
  std::vector<std::string> mistakes;
  if (gateway.tls) {
    const bool none = !is_there(gateway.tls->certificate) && !is_there(gateway.tls->key);
    if (none && absent != nullptr)
      absent->push_back(gateway.tls->certificate.path);
    else
      check_tls(*gateway.tls, unix_time, mistakes);
  }
  if (!gateway.api_keys.path.empty()) {
    if (!is_there(gateway.api_keys) && absent != nullptr)
      absent->push_back(gateway.api_keys.path);
    else
      check_keys(gateway.api_keys, mistakes);
  }
  return mistakes.empty() ? absl::OkStatus() : absl::InvalidArgumentError(join(mistakes, "\n"));
}

absl::StatusOr<std::unique_ptr<transport::ServerTls>> gateway_tls(const GatewayManifest& gateway) {
  if (!gateway.tls) return nullptr;
  return transport::ServerTls::create(gateway.tls->certificate.path, gateway.tls->key.path);
}

std::unique_ptr<transport::CertificateWatch> watch_gateway(const GatewayManifest& gateway) {
  if (!gateway.tls) return nullptr;
  auto out = std::make_unique<transport::CertificateWatch>(files_of(*gateway.tls), "gateway");
  look_at_certificates(out.get());
  return out;
}

}  // namespace baton::cli
