#include "cli/control_security.h"

#include <unistd.h>

#include "base/cat.h"
#include "base/log.h"
#include "cli/cluster/process.h"
#include "transport/rpc/handshake_log.h"
#include "transport/rpc/tls_files.h"

namespace baton::cli {
namespace {

const TlsSide& own_side(const TlsManifest& tls, ControlSide side) {
  return side == ControlSide::kCoordinator ? tls.coordinator : tls.worker;
}

transport::TlsFiles files_of(const TlsManifest& tls, ControlSide side) {
  const TlsSide& own = own_side(tls, side);
  return {.ca = tls.ca.path, .certificate = own.certificate.path, .key = own.key.path};
}

}  // namespace

const char* side_name(ControlSide side) {
  return side == ControlSide::kCoordinator ? "coordinator" : "worker";
}

transport::RpcSecurity security_of(const ControlManifest& control, ControlSide side) {
  transport::RpcSecurity out{.insecure_i_understand = control.insecure_plaintext};
  if (!control.tls) return out;
  out.tls = files_of(*control.tls, side);
  out.peer_name =
      side == ControlSide::kCoordinator ? control.tls->worker.name : control.tls->coordinator.name;
  return out;
}

const std::string& certificate_path(const ControlManifest& control, ControlSide side) {
  return own_side(*control.tls, side).certificate.path;
}

transport::StreamSecurity worker_security_of(const ControlManifest& control) {
  const transport::TlsFiles files = files_of(*control.tls, ControlSide::kWorker);
  return {.ca = files.ca,
          .certificate = files.certificate,
          .key = files.key,
          .peer_name = control.tls->worker.name};
}

bool has_files(const ControlManifest& control, ControlSide side) {
  if (!control.tls) return false;
  const TlsSide& own = own_side(*control.tls, side);
  return ::access(own.certificate.path.c_str(), F_OK) == 0 || ::access(own.key.path.c_str(), F_OK) == 0;
}

absl::Status check_files(const ControlManifest& control, ControlSide side, int64_t unix_time) {
  if (!control.tls) return absl::OkStatus();
  const TlsSide& own = own_side(*control.tls, side);
  std::vector<std::string> lines;
  for (const auto& mistake : transport::check_tls_files(files_of(*control.tls, side), own.name, unix_time)) {
    const NamedFile& file = mistake.file == transport::TlsFile::kCa    ? control.tls->ca
                            : mistake.file == transport::TlsFile::kKey ? own.key
                                                                       : own.certificate;
    lines.push_back(cat(file.place, ": ", mistake.text));
  }
  return lines.empty() ? absl::OkStatus() : absl::InvalidArgumentError(join(lines, "\n"));
}

absl::Status check_own_files(const ControlManifest& control, ControlSide side) {
  RETURN_IF_ERROR(check_files(control, side, unix_time_source()()));
  if (!control.tls) return absl::OkStatus();
  transport::log_failed_handshakes();
  return absl::OkStatus();
}

std::unique_ptr<transport::CertificateWatch> watch_certificates(const ControlManifest& control,
                                                                ControlSide side) {
  if (!control.tls) return nullptr;
  auto out = std::make_unique<transport::CertificateWatch>(files_of(*control.tls, side));
  look_at_certificates(out.get());
  return out;
}

void look_at_certificates(transport::CertificateWatch* watch) {
  if (watch == nullptr) return;
  for (const transport::CertificateTerm& term : watch->look(unix_time_source()()))
    log_warn("a certificate ends soon: put a new one in its place (docs/multi_host.md)",
             {{"which", term.name}, {"file", term.file}, {"hours_left", term.seconds_left / 3600}});
}

void set_certificate_metrics(Metrics& metrics, const transport::CertificateWatch* watch) {
  if (watch == nullptr) return;
  for (const transport::CertificateTerm& term : watch->terms(unix_time_source()()))
    metrics.set(Metric::kCertificateLeft, static_cast<double>(term.seconds_left), {term.name});
}

}  // namespace baton::cli
