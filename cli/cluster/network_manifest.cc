#include "cli/cluster/network_manifest.h"

#include <filesystem>

#include "base/cat.h"
#include "cli/cluster/host_address.h"

namespace baton::cli {
namespace {

constexpr std::string_view kPem = "a PEM file";

TlsSide read_side(ConfigObject side, const char* name, const std::string& folder) {
  TlsSide out;
  out.certificate = read_file_name(side, "certificate", folder, kPem);
  out.key = read_file_name(side, "key", folder, kPem);
  out.name = side.string("name", name);
  if (out.name.empty() || out.name.size() > 253)
    side.fail("name", "want the name that its certificate carries");
  side.done();
  return out;
}

std::optional<TlsManifest> read_tls(ConfigObject& control, const std::string& folder) {
  ConfigObject tls = control.object("tls");
  if (!control.has("tls")) return std::nullopt;
  TlsManifest out;
  out.ca = read_file_name(tls, "ca", folder, kPem);
  out.coordinator = read_side(tls.object("coordinator"), "coordinator", folder);
  out.worker = read_side(tls.object("worker"), "worker", folder);
  if (out.coordinator.name == out.worker.name)
    tls.fail("worker", cat("coordinator and worker have the name '", out.worker.name,
                           "' both: a worker could pose as coordinator"));
  tls.done();
  return out;
}

// An address that other machines reach wants TLS or the permission to do without.
void check_protected(ConfigObject& control, const char* key, const std::string& host,
                     const ControlManifest& c) {
  if (is_loopback_host(host) || c.tls || c.insecure_plaintext) return;
  control.fail(key, cat("'", host,
                        "' is on the network, and nothing protects requests and tokens there: give "
                        "control.tls (docs/multi_host.md has the commands), or set "
                        "insecureAllowPlaintextOffLoopback: true if the network is private"));
}

void read_host(ConfigObject& network, const char* key, std::string& out) {
  out = network.string(key);
  if (out.empty() || is_numeric_host(out) || is_network(out)) return;
  network.fail(key, cat("want an address of the machine like 10.0.0.2, or a network in which it has one like "
                        "10.0.0.0/24, got '",
                        out, "'"));
}

std::string side_yaml(const TlsSide& side) {
  return cat("{certificate: ", quoted_yaml(side.certificate.path), ", key: ", quoted_yaml(side.key.path),
             ", name: ", quoted_yaml(side.name), "}");
}

}  // namespace

NamedFile read_file_name(ConfigObject& object, const char* key, const std::string& folder,
                         std::string_view what) {
  NamedFile out{.path = object.string(key), .place = object.place(key)};
  if (out.path.empty()) object.fail(object.has(key) ? key : "", cat("want `", key, "`, ", what));
  if (!out.path.empty() && !out.path.starts_with('/'))
    out.path = (std::filesystem::path(folder) / out.path).lexically_normal().string();
  return out;
}

std::string ControlManifest::join_address() const {
  if (!join.empty()) return join;
  const auto own = split_host_port(listen);
  return own && own->port > 0 && !is_wildcard_host(own->host) ? listen : "";
}

ControlManifest read_control(ConfigObject control, const std::string& folder) {
  ControlManifest out;
  out.listen = control.string("listen", out.listen);
  out.join = control.string("join");
  out.insecure_plaintext = control.boolean("insecureAllowPlaintextOffLoopback", false);
  out.tls = read_tls(control, folder);
  if (out.tls && out.insecure_plaintext)
    control.fail("insecureAllowPlaintextOffLoopback",
                 "there is `tls` too, which leaves nothing plain: want one of both");
  if (const auto listen = split_host_port(out.listen)) {
    check_protected(control, "listen", listen->host, out);
  } else {
    control.fail("listen", cat("want address:port, got '", out.listen, "'"));
  }
  if (const auto join = split_host_port(out.join)) {
    check_protected(control, "join", join->host, out);
  } else if (!out.join.empty()) {
    control.fail("join", cat("want host:port, got '", out.join, "'"));
  }
  control.done();
  return out;
}

NetworkManifest read_network(ConfigObject network) {
  NetworkManifest out;
  read_host(network, "control", out.control);
  read_host(network, "data", out.data);
  if (is_wildcard_host(out.data))
    network.fail("data", "want one address: KV comes from where the worker says it is");
  out.control_port = static_cast<int>(network.integer("controlPort", 0, 0, 65535));
  out.data_port = static_cast<int>(network.integer("dataPort", 0, 0, 65535));
  read_host(network, "metrics", out.metrics);
  out.metrics_port = static_cast<int>(network.integer("metricsPort", 0, 0, 65535));
  out.insecure_metrics = network.boolean("insecureAllowPlaintextMetricsOffLoopback", false);
  if (!out.metrics.empty() && !is_loopback_host(out.metrics) && !out.insecure_metrics)
    network.fail("metrics", cat("'", out.metrics,
                                "' is on the network, and whoever reaches it reads the metrics; set "
                                "insecureAllowPlaintextMetricsOffLoopback: true if that is what you want"));
  network.done();
  return out;
}

std::string control_yaml(const ControlManifest& c) {
  std::string out = cat("  control:\n    listen: ", quoted_yaml(c.listen), "\n");
  if (!c.join.empty()) out += cat("    join: ", quoted_yaml(c.join), "\n");
  if (c.insecure_plaintext) out += "    insecureAllowPlaintextOffLoopback: true\n";
  if (c.tls)
    out += cat("    tls:\n      ca: ", quoted_yaml(c.tls->ca.path),
               "\n      coordinator: ", side_yaml(c.tls->coordinator),
               "\n      worker: ", side_yaml(c.tls->worker), "\n");
  return out;
}

std::string network_yaml(const NetworkManifest& n) {
  std::string out;
  const auto add = [&out](const char* key, const std::string& value) {
    out += cat(out.empty() ? "" : ", ", key, ": ", value);
  };
  if (!n.control.empty()) add("control", quoted_yaml(n.control));
  if (n.control_port > 0) add("controlPort", std::to_string(n.control_port));
  if (!n.data.empty()) add("data", quoted_yaml(n.data));
  if (n.data_port > 0) add("dataPort", std::to_string(n.data_port));
  if (!n.metrics.empty()) add("metrics", quoted_yaml(n.metrics));
  if (n.metrics_port > 0) add("metricsPort", std::to_string(n.metrics_port));
  if (n.insecure_metrics) add("insecureAllowPlaintextMetricsOffLoopback", "true");
  return out.empty() ? "" : cat("\n      network: {", out, "}");
}

}  // namespace baton::cli
