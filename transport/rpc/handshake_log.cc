#include "transport/rpc/handshake_log.h"

#include <grpc/support/log.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <string_view>

#include "base/log.h"

namespace baton::transport {
namespace {

constexpr std::string_view kFailed = "Handshaking failed:";
constexpr std::string_view kAddress = "target_address:\"";

// True once a second: whoever knocks all day shall not fill the disk.
bool may_log() {
  static std::atomic<int64_t> last{INT64_MIN};
  const int64_t now = std::chrono::steady_clock::now().time_since_epoch() / std::chrono::seconds(1);
  int64_t before = last.load(std::memory_order_relaxed);
  return before != now && last.compare_exchange_strong(before, now, std::memory_order_relaxed);
}

std::string address_in(std::string_view text) {
  const size_t at = text.find(kAddress);
  if (at == text.npos) return "(gRPC does not say)";
  const std::string_view rest = text.substr(at + kAddress.size());
  return std::string(rest.substr(0, rest.find('"')));
}

void on_line(gpr_log_func_args* line) {
  const std::string_view text = line->message;
  if (!text.starts_with(kFailed) || !may_log()) return;
  const std::string why = explain_handshake(std::string(text));
  log_warn("a TLS handshake failed: somebody was not let in",
           {{"address", address_in(text)}, {"why", why.empty() ? std::string(text) : why}});
}

}  // namespace

void log_failed_handshakes() {
  const char* asked = std::getenv("GRPC_VERBOSITY");
  if (asked != nullptr && std::string_view(asked) != "NONE") return;
  gpr_set_log_function(on_line);
  gpr_set_log_verbosity(GPR_LOG_SEVERITY_DEBUG);
}

std::string explain_handshake(const std::string& text) {
  const auto says = [&text](std::string_view words) { return text.find(words) != text.npos; };
  if (says("certificate verify failed"))
    return "its certificate is not signed by our CA (control.tls.ca), or has expired";
  if (says("did not return a certificate")) return "it shows no certificate: control.tls is missing there";
  if (says("wrong version number") || says("http request"))
    return "it talks without TLS: control.tls is missing there";
  if (says("Hostname Verification Check failed") || says("Peer name"))
    return "its certificate does not carry the name that control.tls gives that side";
  if (says("alert unknown ca") || says("alert bad certificate") || says("alert certificate"))
    return "it does not take our certificate: another CA there, or ours has expired";
  if (says("Socket closed") || says("Connection reset") || says("Broken pipe"))
    return "it closed the connection in the handshake: it does not take our certificate (another CA there, "
           "another name, or expired), or one of us has control.tls and the other has not";
  return "";
}

}  // namespace baton::transport
