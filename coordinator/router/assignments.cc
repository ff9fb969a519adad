#include "coordinator/router/assignments.h"

#include "base/check.h"

namespace baton::coordinator {

void Assignments::add(LegCost& sum, const LegCost& cost, int sign) {
  sum.prefill_tokens += sign * cost.prefill_tokens;
  sum.blocks += sign * cost.blocks;
  sum.decodes += sign * cost.decodes;
}

void Assignments::assign(RequestId request, const WorkerRef& worker, const LegCost& cost) {
  PerWorker& per = workers_[worker];
  const bool is_new = per.legs.emplace(request, Assigned{cost, Phase::kSent}).second;
  BATON_CHECK(is_new, "a request has at most one leg on a worker");
  add(per.unseen, cost, +1);
  per.decodes += cost.decodes;
}

void Assignments::acknowledged(RequestId request, const WorkerRef& worker) {
  const auto per = workers_.find(worker);
  if (per == workers_.end()) return;
  const auto leg = per->second.legs.find(request);
  if (leg == per->second.legs.end() || leg->second.phase != Phase::kSent) return;
  leg->second.phase = Phase::kAcknowledged;
  per->second.acknowledged.push_back(request);
}

void Assignments::snapshot(const WorkerRef& worker) {
  const auto per = workers_.find(worker);
  if (per == workers_.end()) return;
  for (const RequestId request : per->second.acknowledged) {
    const auto leg = per->second.legs.find(request);
    if (leg == per->second.legs.end() || leg->second.phase != Phase::kAcknowledged) continue;
    leg->second.phase = Phase::kSeen;
    add(per->second.unseen, leg->second.cost, -1);
  }
  per->second.acknowledged.clear();
}

void Assignments::drop(RequestId request, const WorkerRef& worker) {
  const auto per = workers_.find(worker);
  if (per == workers_.end()) return;
  const auto leg = per->second.legs.find(request);
  if (leg == per->second.legs.end()) return;
  if (leg->second.phase != Phase::kSeen) add(per->second.unseen, leg->second.cost, -1);
  per->second.decodes -= leg->second.cost.decodes;
  per->second.legs.erase(leg);
  if (per->second.legs.empty()) workers_.erase(per);
}

void Assignments::forget(const WorkerRef& worker) { workers_.erase(worker); }

LegCost Assignments::unseen(const WorkerRef& worker) const {
  const auto per = workers_.find(worker);
  return per == workers_.end() ? LegCost{} : per->second.unseen;
}

int32_t Assignments::decodes(const WorkerRef& worker) const {
  const auto per = workers_.find(worker);
  return per == workers_.end() ? 0 : per->second.decodes;
}

}  // namespace baton::coordinator
