#pragma once

#include <mutex>
#include <set>
#include <string>
#include <string_view>

#include "base/metrics.h"
#include "base/status.h"
#include "coordinator/gateway/routes.h"
#include "coordinator/request/request_port.h"

namespace baton::cli {

// GET /admin/v1/workers (role operator): what `baton ps` shows, as JSON. `status` is called on the io thread.
absl::Status add_admin_routes(coordinator::RouteTable& routes, coordinator::ClusterStatusFn status);

// The cluster as the coordinator sees it, into the gauges that describe workers: those of one that is gone
// are 0, not what they were. Thread: any.
class WorkerGauges {
 public:
  explicit WorkerGauges(Metrics& metrics) : metrics_(metrics) {}
  void show(const coordinator::ClusterStatus& status);

 private:
  void show(const std::string& name, std::string_view state, const LoadSnapshot& load, int64_t free);
  Metrics& metrics_;
  std::mutex mutex_;
  std::set<std::string> shown_;
};

}  // namespace baton::cli
