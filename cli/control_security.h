#pragma once

#include <memory>
#include <string>

#include "base/metrics.h"
#include "base/status.h"
#include "cli/cluster/network_manifest.h"
#include "transport/rpc/certificate_watch.h"
#include "transport/rpc/security.h"
#include "transport/tls/tls_stream.h"

namespace baton::cli {

enum class ControlSide : uint8_t { kCoordinator, kWorker };
const char* side_name(ControlSide side);

// What the manifest says about the control connection, for one of its ends.
transport::RpcSecurity security_of(const ControlManifest& control, ControlSide side);
// The same certificates for KV, worker to worker, and for the ranks of one. There is `control.tls`.
transport::StreamSecurity worker_security_of(const ControlManifest& control);

const std::string& certificate_path(const ControlManifest& control, ControlSide side);  // there is TLS
// This side's certificate and key are on this machine (a worker's machine need not have the coordinator's).
bool has_files(const ControlManifest& control, ControlSide side);
// Every mistake in the CA and in this side's files, each with its place in the manifest. OK without TLS.
absl::Status check_files(const ControlManifest& control, ControlSide side, int64_t unix_time);
// For a process that starts: check_files(), and from then on a line in the log for each handshake that fails.
absl::Status check_own_files(const ControlManifest& control, ControlSide side);

// For a process that runs; null without TLS. What ends within two weeks is a line in the log, now and once a
// day while the owner looks. Thread: as CertificateWatch.
std::unique_ptr<transport::CertificateWatch> watch_certificates(const ControlManifest& control,
                                                                ControlSide side);
void look_at_certificates(transport::CertificateWatch* watch);
void set_certificate_metrics(Metrics& metrics, const transport::CertificateWatch* watch);

}  // namespace baton::cli
