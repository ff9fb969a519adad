#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "base/clock.h"
#include "coordinator/gateway/api_error.h"
#include "coordinator/gateway/api_keys.h"
#include "coordinator/gateway/routes.h"
#include "transport/tls/watched_files.h"

namespace baton::coordinator {

struct AccessOptions {
  std::string keys_file;        // empty: no keys; users are all who can connect, operators who is_local
  std::string local_key;        // opens everything besides, for commands of this machine's user; may be empty
  int requests_per_tenant = 0;  // at once; 0: any number. Not of operators
  std::function<bool(const std::string& client)> is_local;  // address without port
};

// Who may call which route (design I9), decided from a request's head, before its body is read. The file of
// keys is looked at again when a request comes and a second has passed: a key that was added opens the
// server from then on, one that was removed does not. A file that became wrong is logged, and the keys
// before it stay. Thread: io of one server; a ticket may be dropped on any.
class Access {
 public:
  // Errors: of the file.
  static absl::StatusOr<std::unique_ptr<Access>> create(AccessOptions options);

  // Nothing: it may, and its tenant and ticket are set. 401 without a key that is known, 403 with one that
  // is not enough, 429 when the tenant has enough requests running.
  std::optional<ApiError> admit(RouteRole role, HttpRequest& request, Instant now);

 private:
  explicit Access(AccessOptions options) : options_(std::move(options)) {}
  absl::Status read();
  void read_changed(Instant now);
  std::optional<ApiError> take_ticket(HttpRequest& request);

  AccessOptions options_;
  ApiKeys keys_;
  std::optional<transport::WatchedFiles> file_;  // none: no keys
  Instant looked_at_{};
  absl::flat_hash_map<std::string, std::shared_ptr<std::atomic<int>>> running_;  // by tenant
};

}  // namespace baton::coordinator
