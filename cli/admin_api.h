#pragma once

#include "base/metrics.h"
#include "base/status.h"
#include "coordinator/gateway/routes.h"
#include "coordinator/request/request_port.h"

namespace baton::cli {

// GET /admin/v1/workers (role operator): what `baton ps` shows, as JSON. `status` is called on the io thread.
absl::Status add_admin_routes(coordinator::RouteTable& routes, coordinator::ClusterStatusFn status);

// The cluster as the coordinator sees it, into the gauges that describe workers.
void set_worker_metrics(Metrics& metrics, const coordinator::ClusterStatus& status);

}  // namespace baton::cli
