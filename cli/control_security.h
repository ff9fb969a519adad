#pragma once

#include <string>

#include "base/status.h"
#include "cli/cluster/network_manifest.h"
#include "transport/data/tls_stream.h"
#include "transport/rpc/security.h"

namespace baton::cli {

enum class ControlSide : uint8_t { kCoordinator, kWorker };
const char* side_name(ControlSide side);

// What the manifest says about the control connection, for one of its ends.
transport::RpcSecurity security_of(const ControlManifest& control, ControlSide side);
// The same certificates for KV: worker to worker. There is `control.tls`.
transport::StreamSecurity kv_security_of(const ControlManifest& control);

const std::string& certificate_path(const ControlManifest& control, ControlSide side);  // there is TLS
// This side's certificate and key are on this machine (a worker's machine need not have the coordinator's).
bool has_files(const ControlManifest& control, ControlSide side);
// Every mistake in the CA and in this side's files, each with its place in the manifest. OK without TLS.
absl::Status check_files(const ControlManifest& control, ControlSide side, int64_t unix_time);
// For a process that starts: check_files(), a line in the log when the certificate ends within two weeks, and
// from then on one for each handshake that fails.
absl::Status check_own_files(const ControlManifest& control, ControlSide side);

}  // namespace baton::cli
