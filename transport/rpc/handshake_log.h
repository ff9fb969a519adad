#pragma once

#include <string>

namespace baton::transport {

// The listening end of a TLS connection hears nothing of a handshake that fails but gRPC's own log. From this
// call on each one is a line of ours, with the address of the other end and what to look at; one a second at
// most. Not when GRPC_VERBOSITY asks for gRPC's log itself. Call once, before the first server starts.
void log_failed_handshakes();

// What went wrong, in words for whom runs the cluster; empty when gRPC's text says none of what is known.
// Example: "...certificate verify failed" -> "its certificate is not signed by our CA, or has expired".
std::string explain_handshake(const std::string& grpc_text);

}  // namespace baton::transport
