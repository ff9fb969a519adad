#include "coordinator/membership/lease_store.h"

#include "base/cat.h"

namespace baton::coordinator {

uint64_t LeaseStore::grant(const WorkerRef& worker, Instant now) {
  leases_[worker.name] = {next_, worker.incarnation, now + ttl_};
  return next_++;
}

absl::Status LeaseStore::renew(const WorkerRef& worker, uint64_t lease, Instant now) {
  const auto found = leases_.find(worker.name);
  if (found == leases_.end() || found->second.number != lease ||
      found->second.incarnation != worker.incarnation)
    return absl::NotFoundError(cat(worker.name, ": no such lease; join again"));
  found->second.expiry = now + ttl_;
  return absl::OkStatus();
}

bool LeaseStore::expired(const std::string& name, Instant now) const { return now >= expiry(name); }

Instant LeaseStore::expiry(const std::string& name) const {
  const auto found = leases_.find(name);
  return found == leases_.end() ? kNever : found->second.expiry;
}

void LeaseStore::extend(Duration by) {
  for (auto& [name, lease] : leases_) lease.expiry += by;
}

}  // namespace baton::coordinator
