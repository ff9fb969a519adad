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
  std::string keys_file;  // empty: no keys; users are all who can connect, operators who is_local
  std::string local_key;  // opens everything besides, for commands of this machine's user; may be empty
  // Of each tenant, operators aside; 0: any number.
  int requests_per_tenant = 0;    // at once
  int64_t tokens_per_minute = 0;  // computed for it; a minute's share may be used at once
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

  // So many tokens were computed for a tenant: a request's cost is known when it has ended.
  void spent(const std::string& tenant, int64_t tokens, Instant now);
  // Nothing: it may, and its tenant and ticket are set. 401 without a key that is known, 403 with one that
  // is not enough, 429 when the tenant has enough requests running, or has used its tokens.
  std::optional<ApiError> admit(RouteRole role, HttpRequest& request, Instant now);

 private:
  explicit Access(AccessOptions options) : options_(std::move(options)) {}
  absl::Status read();
  void read_changed(Instant now);
  struct Tenant {
    std::shared_ptr<std::atomic<int>> running = std::make_shared<std::atomic<int>>(0);
    double tokens = 0;  // left to it at `at`; below 0: more was computed than it had
    Instant at{};
  };
  Tenant& tenant(const std::string& name, Instant now);
  std::optional<ApiError> take_ticket(HttpRequest& request, Instant now);

  AccessOptions options_;
  ApiKeys keys_;
  std::optional<transport::WatchedFiles> file_;  // none: no keys
  Instant looked_at_{};
  absl::flat_hash_map<std::string, Tenant> tenants_;  // that have asked
};

}  // namespace baton::coordinator
