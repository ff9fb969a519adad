#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "transport/messages/messages.h"

namespace baton::coordinator {

// Leases of workers by name, kept in this process. Expiry is a fact at a time handed in, never a timer of its
// own. Thread: control.
class LeaseStore {
 public:
  explicit LeaseStore(Duration ttl) : ttl_(ttl) {}

  // A new lease; an older one of that name is gone.
  uint64_t grant(const WorkerRef& worker, Instant now);
  // kNotFound when it is not the live lease of that worker.
  absl::Status renew(const WorkerRef& worker, uint64_t lease, Instant now);
  void revoke(const std::string& name) { leases_.erase(name); }
  bool expired(const std::string& name, Instant now) const;
  // kNever when there is no such lease.
  Instant expiry(const std::string& name) const;
  // All leases end `by` later.
  void extend(Duration by);
  Duration ttl() const { return ttl_; }

 private:
  struct Lease {
    uint64_t number = 0;
    Incarnation incarnation;
    Instant expiry{};
  };
  const Duration ttl_;
  uint64_t next_ = 1;
  std::map<std::string, Lease> leases_;
};

}  // namespace baton::coordinator
