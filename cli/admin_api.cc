#include "cli/admin_api.h"

#include <boost/json.hpp>

#include "base/cat.h"

namespace baton::cli {
namespace {

namespace json = boost::json;
using coordinator::ClusterStatus;

const char* role_text(WorkerRole role) {
  return role == WorkerRole::kPrefill ? "prefill" : role == WorkerRole::kDecode ? "decode" : "any";
}

// Blocks that are none of these have not been reported yet: a worker starts with all of them free.
int64_t free_blocks(const ClusterStatus::Worker& w) {
  const LoadSnapshot& l = w.load;
  const int64_t known =
      l.blocks_free + l.blocks_cached + l.blocks_active + l.blocks_inflight + l.blocks_quarantined;
  return known == 0 ? w.description.blocks_total : l.blocks_free;
}

json::array links_json(const ClusterStatus& status, const std::string& worker) {
  json::array out;
  for (const ClusterStatus::Link& link : status.links) {
    if (link.a != worker && link.b != worker) continue;
    json::object one{{"peer", link.a == worker ? link.b : link.a},
                     {"state", link.state},
                     {"lane", link.lane},
                     {"bytes_per_second", link.bytes_per_second}};
    if (!link.error.empty()) one["error"] = link.error;
    out.push_back(std::move(one));
  }
  return out;
}

json::object worker_json(const ClusterStatus& status, const ClusterStatus::Worker& w) {
  const WorkerDescription& d = w.description;
  return {
      {"name", d.ref.name},
      {"incarnation", d.ref.incarnation.value()},
      {"role", role_text(d.role)},
      {"pool", d.pool},
      {"pid", d.pid},
      {"state", w.state},
      {"address", d.control_address},
      {"data_address", d.data_address},
      {"metrics_address", d.metrics_address},
      {"links", links_json(status, d.ref.name)},
      {"device", d.device},
      {"kv_blocks",
       {{"total", d.blocks_total},
        {"free", free_blocks(w)},
        {"cached", w.load.blocks_cached},
        {"active", w.load.blocks_active},
        {"in_transfer", w.load.blocks_inflight},
        {"quarantine", w.load.blocks_quarantined}}},
      {"transfers_open", w.load.transfers_open},
      {"running", w.load.running},
      {"waiting", w.load.waiting},
      {"heartbeat_age_ms", std::chrono::duration_cast<std::chrono::milliseconds>(w.heartbeat_age).count()}};
}

}  // namespace

absl::Status add_admin_routes(coordinator::RouteTable& routes, coordinator::ClusterStatusFn status) {
  return routes.add({"GET", "/admin/v1/workers", coordinator::RouteRole::kOperator,
                     [status](std::shared_ptr<coordinator::Exchange> exchange) {
                       json::array list;
                       const auto now = status();
                       for (const auto& w : now->workers) list.push_back(worker_json(*now, w));
                       exchange->answer({.body = json::serialize(list)});
                     }});
}

void WorkerGauges::show(const std::string& name, std::string_view state, const LoadSnapshot& load,
                        int64_t free) {
  metrics_.set(Metric::kKvBlocks, static_cast<double>(free), {name, "free"});
  metrics_.set(Metric::kKvBlocks, load.blocks_cached, {name, "cached"});
  metrics_.set(Metric::kKvBlocks, load.blocks_active, {name, "active"});
  metrics_.set(Metric::kKvBlocks, load.blocks_inflight, {name, "in_transfer"});
  metrics_.set(Metric::kKvBlocks, load.blocks_quarantined, {name, "quarantine"});
  for (const char* one : {"starting", "ready", "suspect", "draining"})
    metrics_.set(Metric::kWorkerState, state == one, {name, one});
}

void WorkerGauges::show(const ClusterStatus& status) {
  const std::lock_guard lock(mutex_);
  std::set<std::string> gone = shown_;
  for (const auto& w : status.workers) {
    const std::string& name = w.description.ref.name;
    show(name, w.state, w.load, free_blocks(w));
    shown_.insert(name);
    gone.erase(name);
  }
  for (const std::string& name : gone) show(name, "", {}, 0);
}

}  // namespace baton::cli
