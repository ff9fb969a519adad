#include "transport/rpc/grpc_edge.h"

#include <arpa/inet.h>
#include <grpc/grpc_security_constants.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <sstream>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "base/timers.h"
#include "transport/messages/life_over.h"
#include "transport/rpc/codec.h"

namespace baton::transport {

namespace {

constexpr int milliseconds(std::chrono::milliseconds d) { return static_cast<int>(d.count()); }

// Pings of our own protocol find a silent peer in 1.5 s; these clean up dead connections after that. The
// timeout is also what gRPC sets as TCP_USER_TIMEOUT.
template <class Setter>
void set_keepalive(Setter set) {
  set(GRPC_ARG_KEEPALIVE_TIME_MS, 4 * milliseconds(timers::kHeartbeat));
  set(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 2 * milliseconds(timers::kDead));
  set(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  set(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  set(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, milliseconds(timers::kHeartbeat));
  set(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  // gRPC would ask for the window's size with a ping for each message on a quiet line: half of what an idle
  // cluster does. The control plane never needs more than this window.
  set(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  set(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 1 << 20);
}

absl::StatusOr<std::string> read_pem(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf()))
    return absl::InvalidArgumentError(absl::StrCat(path, ": cannot read"));
  if (text.str().find("-----BEGIN") == std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": want a PEM file"));
  }
  return text.str();
}

struct Pem {
  std::string ca, certificate, key;
};

absl::StatusOr<Pem> read_files(const TlsFiles& files) {
  Pem pem;
  ASSIGN_OR_RETURN(pem.ca, read_pem(files.ca));
  ASSIGN_OR_RETURN(pem.certificate, read_pem(files.certificate));
  ASSIGN_OR_RETURN(pem.key, read_pem(files.key));
  return pem;
}

// gRPC's own thread reads the files again and again: a renewed certificate serves without a restart. Files
// that are no good when it looks leave the ones before in their place.
std::shared_ptr<grpc::experimental::FileWatcherCertificateProvider> watch(const RpcSecurity& security) {
  const TlsFiles& files = *security.tls;
  return std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
      files.key, files.certificate, files.ca, static_cast<unsigned>(security.reload.count()));
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> server_credentials(const RpcSecurity& security) {
  if (!security.tls) return grpc::InsecureServerCredentials();
  RETURN_IF_ERROR(read_files(*security.tls).status());
  grpc::experimental::TlsServerCredentialsOptions options(watch(security));
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  return grpc::experimental::TlsServerCredentials(options);
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> channel_credentials(const RpcSecurity& security,
                                                                              ChannelLife life) {
  if (!security.tls) return grpc::InsecureChannelCredentials();
  ASSIGN_OR_RETURN(const Pem pem, read_files(*security.tls));
  if (life == ChannelLife::kConnection) return grpc::SslCredentials({pem.ca, pem.key, pem.certificate});
  grpc::experimental::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(watch(security));
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  return grpc::experimental::TlsCredentials(options);
}

// gRPC only says that it could not listen; the system says why.
absl::Status probe(const std::string& address, const std::string& host) {
  const std::string port = address.substr(address.rfind(':') + 1);
  uint16_t number;
  const auto [end, bad] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (bad != std::errc() || end != port.data() + port.size()) {
    return absl::InvalidArgumentError(absl::StrCat("cannot listen on ", address, ": want host:port"));
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(host.c_str(), port.c_str(), &hints, &found); error != 0) {
    return absl::InvalidArgumentError(absl::StrCat("cannot listen on ", address, ": ", gai_strerror(error)));
  }
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  const bool free = bind(fd, found->ai_addr, found->ai_addrlen) == 0;
  const std::string reason = free ? "" : std::generic_category().message(errno);
  freeaddrinfo(found);
  close(fd);
  return free ? absl::OkStatus()
              : absl::UnavailableError(absl::StrCat("cannot listen on ", address, ": ", reason));
}

std::string host_of(const std::string& address) {
  if (!address.empty() && address[0] == '[') return address.substr(1, address.find(']') - 1);
  return address.substr(0, address.rfind(':'));
}

}  // namespace

bool is_loopback(const std::string& address) {
  const std::string host = host_of(address);
  if (host == "localhost") return true;
  in_addr four;
  if (inet_pton(AF_INET, host.c_str(), &four) == 1) return (ntohl(four.s_addr) >> 24) == 127;
  in6_addr six;
  return inet_pton(AF_INET6, host.c_str(), &six) == 1 && IN6_IS_ADDR_LOOPBACK(&six);
}

absl::Status check_address(const std::string& address, const RpcSecurity& security) {
  if (security.tls || security.insecure_i_understand || is_loopback(address)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(address, ": not a loopback address; want TLS, or the explicit insecure flag"));
}

absl::Status to_absl(const grpc::Status& status) {
  absl::Status out(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  if (!out.ok() && !status.error_details().empty())
    out.SetPayload(kLifeOverPayload, absl::Cord(status.error_details()));
  return out;
}

grpc::Status to_grpc(const absl::Status& status) {
  const auto over = status.GetPayload(kLifeOverPayload);
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()),
                      over ? std::string(*over) : "");
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> make_channel(const std::string& address,
                                                            const RpcSecurity& security, ChannelLife life) {
  RETURN_IF_ERROR(check_address(address, security));
  ASSIGN_OR_RETURN(auto credentials, channel_credentials(security, life));
  grpc::ChannelArguments arguments;
  set_keepalive([&](const char* name, int value) { arguments.SetInt(name, value); });
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetMaxSendMessageSize(kMaxMessageBytes);
  if (security.tls && !security.peer_name.empty()) arguments.SetSslTargetNameOverride(security.peer_name);
  return grpc::CreateCustomChannel(address, credentials, arguments);
}

absl::StatusOr<ListeningServer> listen(const std::string& address, const RpcSecurity& security,
                                       grpc::Service& service) {
  RETURN_IF_ERROR(check_address(address, security));
  RETURN_IF_ERROR(probe(address, host_of(address)));
  ASSIGN_OR_RETURN(auto credentials, server_credentials(security));
  grpc::ServerBuilder builder;
  set_keepalive([&](const char* name, int value) { builder.AddChannelArgument(name, value); });
  // Two processes on one port would each get half of the streams.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.SetMaxSendMessageSize(kMaxMessageBytes);
  ListeningServer out;
  builder.AddListeningPort(address, credentials, &out.port);
  builder.RegisterService(&service);
  out.server = builder.BuildAndStart();
  if (!out.server || out.port == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", address, ": gRPC does not start"));
  }
  return out;
}

bool peer_allowed(const grpc::AuthContext* peer, const RpcSecurity& security) {
  if (!security.tls || security.peer_name.empty()) return true;
  if (!peer) return false;
  for (const char* property : {GRPC_X509_SAN_PROPERTY_NAME, GRPC_X509_CN_PROPERTY_NAME}) {
    const auto names = peer->FindPropertyValues(property);
    if (std::find(names.begin(), names.end(), security.peer_name) != names.end()) return true;
  }
  return false;
}

}  // namespace baton::transport
