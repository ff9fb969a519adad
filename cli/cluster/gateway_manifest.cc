#include "cli/cluster/gateway_manifest.h"

#include <algorithm>

#include "base/cat.h"
#include "base/config_file.h"
#include "base/timers.h"
#include "cli/cluster/host_address.h"

namespace baton::cli {
namespace {

constexpr uint64_t kMi = 1ull << 20;
using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;

void read_listen(ConfigObject& gateway, GatewayManifest& out) {
  const std::string listen = gateway.string("listen", cat(out.host, ":", out.port));
  const auto at = split_host_port(listen);
  if (!at) return gateway.fail("listen", cat("want address:port, got '", listen, "'"));
  out.host = at->host == "localhost" ? "127.0.0.1" : at->host;
  out.port = static_cast<uint16_t>(at->port);
  if (!is_numeric_host(out.host))
    gateway.fail("listen", cat("'", out.host,
                               "' is a name; want an IP address: 127.0.0.1 for this machine only, 0.0.0.0 or "
                               "[::] for all of its networks"));
}

void read_admin(ConfigObject& gateway, GatewayManifest& out) {
  out.admin = gateway.string("admin");
  if (out.admin.empty()) return;
  const auto at = split_host_port(out.admin);
  if (!at || !is_numeric_host(at->host))
    return gateway.fail("admin",
                        cat("want an IP address and a port like 127.0.0.1:9100, got '", out.admin, "'"));
  const bool guarded = out.tls && (!out.api_keys.path.empty() || out.insecure_anonymous);
  if (!is_loopback_host(at->host) && !out.insecure_plaintext && !guarded)
    gateway.fail("admin",
                 cat("'", at->host,
                     "' is reachable from other machines, and whoever reaches it reads metrics and the "
                     "list of workers; use 127.0.0.1, give gateway.tls and gateway.apiKeysFile, or set "
                     "insecureAllowPlaintextOffLoopback: true if that is what you want"));
}

// Who can reach an address of the network wants TLS and a key, or the permission to do without.
void check_guarded(ConfigObject& gateway, const GatewayManifest& g) {
  if (g.tls && g.insecure_plaintext)
    gateway.fail("insecureAllowPlaintextOffLoopback",
                 "there is `tls` too, which leaves nothing plain: want one of both");
  if (!is_numeric_host(g.host) || is_loopback_host(g.host) || g.insecure_plaintext) return;
  if (!g.tls) {
    gateway.fail(
        "listen",
        cat("'", g.host,
            "' is reachable from other machines without TLS; use 127.0.0.1, give gateway.tls, or set "
            "insecureAllowPlaintextOffLoopback: true if that is what you want"));
  } else if (g.api_keys.path.empty() && !g.insecure_anonymous) {
    gateway.fail(
        "listen",
        cat("'", g.host,
            "' is reachable from other machines, and anybody there may use the model; give "
            "gateway.apiKeysFile (baton key makes it), or set insecureAllowAnonymousOffLoopback: true "
            "if that is what you want"));
  }
}

// As a browser says where a page is from: scheme://host[:port] in lower case, and nothing behind it.
bool is_origin(const std::string& text) {
  const size_t end = text.find("://");
  if (end == std::string::npos || end == 0) return false;
  const auto all_of = [](std::string_view s, std::string_view more) {
    return std::ranges::all_of(s, [&](unsigned char c) {
      return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || more.find(c) != more.npos;
    });
  };
  const std::string scheme = text.substr(0, end), place = text.substr(end + 3);
  if (!all_of(scheme, "+-.") || place.empty() || !all_of(place, ".-_:[]")) return false;
  const bool has_port = place.find(':') != place.npos && place.back() != ']';
  const auto at = split_host_port(has_port ? place : cat(place, ":1"));
  return at && !at->host.empty() && at->port != 0;
}

void read_allowed_origins(ConfigObject& gateway, GatewayManifest& out) {
  out.allowed_origins = gateway.strings("allowedOrigins");
  for (const std::string& origin : out.allowed_origins)
    if (origin != "*" && !is_origin(origin))
      gateway.fail("allowedOrigins", cat("want origins as browsers send them (scheme://host or "
                                         "scheme://host:port, lower case, no path), or \"*\", got '",
                                         origin, "'"));
}

}  // namespace

GatewayManifest read_gateway(ConfigObject gateway, const std::string& folder) {
  GatewayManifest out;
  read_listen(gateway, out);
  out.insecure_plaintext = gateway.boolean("insecureAllowPlaintextOffLoopback", false);
  out.insecure_anonymous = gateway.boolean("insecureAllowAnonymousOffLoopback", false);
  if (gateway.has("apiKeysFile"))
    out.api_keys = read_file_name(gateway, "apiKeysFile", folder, "a file that `baton key` makes");
  if (gateway.has("tls")) {
    ConfigObject tls = gateway.object("tls");
    out.tls = GatewayTls{.certificate = read_file_name(tls, "certificate", folder, "a PEM file"),
                         .key = read_file_name(tls, "key", folder, "a PEM file")};
    tls.done();
  }
  check_guarded(gateway, out);
  read_admin(gateway, out);
  read_allowed_origins(gateway, out);
  ConfigObject limits = gateway.object("limits");
  out.queue_requests = static_cast<int>(limits.integer("queueRequests", out.queue_requests, 1, 100000));
  out.queue_wait = limits.duration("queueWait", out.queue_wait, milliseconds(10), hours(1));
  out.body_bytes = limits.bytes("body", out.body_bytes, 1024, 256 * kMi);
  out.connections = static_cast<int>(limits.integer("connections", out.connections, 1, 1000000));
  out.connections_per_address =
      static_cast<int>(limits.integer("connectionsPerAddress", out.connections_per_address, 1, 1000000));
  out.requests_per_tenant =
      static_cast<int>(limits.integer("requestsPerTenant", out.requests_per_tenant, 0, 1000000));
  out.tokens_per_minute = limits.integer("tokensPerMinutePerTenant", 0, 0, 1'000'000'000);
  for (const char* key : {"requestsPerTenant", "tokensPerMinutePerTenant"})
    if (limits.has(key) && out.api_keys.path.empty())
      limits.fail(key, "tenants are told by their keys: want gateway.apiKeysFile, too");
  out.request_time = limits.duration("requestTime", out.request_time, seconds(1), timers::kRequestTotal);
  limits.done();
  gateway.done();
  return out;
}

std::string microseconds_text(Duration d) {
  return cat(std::chrono::duration_cast<std::chrono::microseconds>(d).count(), "us");
}

std::string list_yaml(const std::vector<std::string>& texts) {
  std::vector<std::string> quoted;
  quoted.reserve(texts.size());
  for (const std::string& text : texts) quoted.push_back(quoted_yaml(text));
  return cat("[", join(quoted, ", "), "]");
}

namespace {

std::string tenant_limits_yaml(const GatewayManifest& g) {
  if (g.api_keys.path.empty()) return "";
  return cat(", requestsPerTenant: ", g.requests_per_tenant,
             ", tokensPerMinutePerTenant: ", g.tokens_per_minute);
}

}  // namespace

std::string gateway_yaml(const GatewayManifest& g) {
  const std::string host = g.host.find(':') == std::string::npos ? g.host : cat("[", g.host, "]");
  return cat("  gateway:\n    listen: ", quoted_yaml(cat(host, ":", g.port)),
             g.admin.empty() ? "" : cat("\n    admin: ", quoted_yaml(g.admin)),
             g.api_keys.path.empty() ? "" : cat("\n    apiKeysFile: ", quoted_yaml(g.api_keys.path)),
             g.tls ? cat("\n    tls: {certificate: ", quoted_yaml(g.tls->certificate.path),
                         ", key: ", quoted_yaml(g.tls->key.path), "}")
                   : "",
             "\n    insecureAllowPlaintextOffLoopback: ", g.insecure_plaintext ? "true" : "false",
             "\n    insecureAllowAnonymousOffLoopback: ", g.insecure_anonymous ? "true" : "false",
             g.allowed_origins.empty() ? "" : cat("\n    allowedOrigins: ", list_yaml(g.allowed_origins)),
             "\n    limits: {queueRequests: ", g.queue_requests,
             ", queueWait: ", microseconds_text(g.queue_wait), ", body: ", g.body_bytes,
             ", connections: ", g.connections, ", connectionsPerAddress: ", g.connections_per_address,
             tenant_limits_yaml(g), ", requestTime: ", microseconds_text(g.request_time), "}\n");
}

}  // namespace baton::cli
