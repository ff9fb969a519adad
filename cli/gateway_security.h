#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "cli/cluster/gateway_manifest.h"
#include "transport/rpc/certificate_watch.h"
#include "transport/tls/server_tls.h"

namespace baton::cli {

// Every mistake in the gateway's certificate, its key and its file of API keys, each with its place in the
// manifest. `absent` gets those that are not on this machine, when it is given: only where the coordinator
// runs they must be. `unix_time`: now, in seconds.
absl::Status check_gateway_files(const GatewayManifest& gateway, int64_t unix_time,
                                 std::vector<std::string>* absent);

// What the gateway shows to who connects; null without `tls`. Errors: check_gateway_files().
absl::StatusOr<std::unique_ptr<transport::ServerTls>> gateway_tls(const GatewayManifest& gateway);
// How long that is good; null without `tls`.
std::unique_ptr<transport::CertificateWatch> watch_gateway(const GatewayManifest& gateway);

}  // namespace baton::cli
