#include "coordinator/request/ledger.h"

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace baton::coordinator {

void Ledger::open(RequestId request, const WorkerRef& worker, Leg leg, TransferId transfer) {
  const LedgerLeg opened{.leg = leg,
                         .state = LegState::kSubmitted,
                         .transfer = transfer,
                         .transfer_state = leg == Leg::kWhole ? TransferState::kNone : TransferState::kOpen,
                         .number = next_number_++};
  const bool is_new = entries_[request].emplace(worker, opened).second;
  BATON_CHECK(is_new, "a request has at most one leg on a worker");
  by_worker_[worker].insert(request);
  ++legs_;
}

bool Ledger::close(RequestId request, const WorkerRef& worker) {
  const auto entry = entries_.find(request);
  if (entry == entries_.end() || entry->second.erase(worker) == 0) return false;
  if (entry->second.empty()) entries_.erase(entry);
  const auto index = by_worker_.find(worker);
  index->second.erase(request);
  if (index->second.empty()) by_worker_.erase(index);
  --legs_;
  return true;
}

std::vector<std::pair<RequestId, LedgerLeg>> Ledger::close_all(const WorkerRef& worker) {
  std::vector<std::pair<RequestId, LedgerLeg>> closed;
  const auto index = by_worker_.find(worker);
  if (index == by_worker_.end()) return closed;
  for (const RequestId request : std::set<RequestId>(index->second)) {
    closed.emplace_back(request, *find(request, worker));
    close(request, worker);
  }
  return closed;
}

LedgerLeg* Ledger::leg(RequestId request, const WorkerRef& worker) {
  return const_cast<LedgerLeg*>(std::as_const(*this).find(request, worker));
}

const LedgerLeg* Ledger::find(RequestId request, const WorkerRef& worker) const {
  const auto entry = entries_.find(request);
  if (entry == entries_.end()) return nullptr;
  const auto leg = entry->second.find(worker);
  return leg == entry->second.end() ? nullptr : &leg->second;
}

bool Ledger::accept(RequestId request, const WorkerRef& worker) {
  LedgerLeg* const found = leg(request, worker);
  if (found == nullptr || found->state != LegState::kSubmitted) return false;
  found->state = LegState::kAccepted;
  return true;
}

bool Ledger::releasing(RequestId request, const WorkerRef& worker) {
  LedgerLeg* const found = leg(request, worker);
  if (found == nullptr || found->state == LegState::kReleasing) return false;
  found->state = LegState::kReleasing;
  return true;
}

void Ledger::transfer(RequestId request, const WorkerRef& worker, TransferState state) {
  LedgerLeg* const found = leg(request, worker);
  if (found != nullptr && found->transfer_state != TransferState::kNone) found->transfer_state = state;
}

std::vector<WorkerRef> Ledger::holders(RequestId request) const {
  std::vector<WorkerRef> workers;
  const auto entry = entries_.find(request);
  if (entry == entries_.end()) return workers;
  for (const auto& [worker, leg] : entry->second) workers.push_back(worker);
  return workers;
}

absl::Status Ledger::check() const {
  size_t counted = 0;
  for (const auto& [request, entry] : entries_) {
    if (entry.empty()) return absl::InternalError(absl::StrCat(to_string(request), ": entry without a leg"));
    for (const auto& [worker, leg] : entry) {
      ++counted;
      const auto index = by_worker_.find(worker);
      if (index == by_worker_.end() || !index->second.contains(request))
        return absl::InternalError(absl::StrCat(to_string(request), ": not in the index of ", worker.name));
      if ((leg.leg == Leg::kWhole) != (leg.transfer_state == TransferState::kNone))
        return absl::InternalError(absl::StrCat(to_string(request), ": leg and transfer do not fit"));
    }
  }
  size_t indexed = 0;
  for (const auto& [worker, requests] : by_worker_) indexed += requests.size();
  if (counted != legs_ || indexed != legs_)
    return absl::InternalError(
        absl::StrCat("legs: counted ", counted, ", indexed ", indexed, ", kept ", legs_));
  return absl::OkStatus();
}

}  // namespace baton::coordinator
