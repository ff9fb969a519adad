#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "base/status.h"
#include "transport/messages/messages.h"

namespace baton::coordinator {

enum class LegState : uint8_t {
  kSubmitted,  // no answer yet
  kAccepted,
  kReleasing,  // told to let go; its Released is due
};

enum class TransferState : uint8_t { kNone, kOpen, kLanded, kFailed };

// One worker's part in a request.
struct LedgerLeg {
  Leg leg = Leg::kWhole;
  LegState state = LegState::kSubmitted;
  TransferId transfer;  // kPrefill and kDecode
  TransferState transfer_state = TransferState::kNone;
  uint64_t number = 0;  // tells it from earlier and later legs of the request on that worker
  friend bool operator==(const LedgerLeg&, const LedgerLeg&) = default;
};

// Who holds what for which request (design I5), the single list that clean-up and the leak test read. A leg
// is opened before its Submit is sent and closed by the one message that proves the worker holds nothing: a
// refusal, Released, or the loss (fencing) of that life of the worker. So whatever a live worker holds stands
// here.
//
// A request has at most one leg on a worker at a time; messages name the request and need no attempt number.
// Empty when idle. Thread: control. Errors: false or nullptr where the caller may be told late or twice.
class Ledger {
 public:
  void open(RequestId request, const WorkerRef& worker, Leg leg, TransferId transfer);
  // False when there is no such leg: late or doubled word.
  bool close(RequestId request, const WorkerRef& worker);
  // All requests that held something there; their legs are closed.
  std::vector<std::pair<RequestId, LedgerLeg>> close_all(const WorkerRef& worker);

  bool accept(RequestId request, const WorkerRef& worker);     // kSubmitted -> kAccepted
  bool releasing(RequestId request, const WorkerRef& worker);  // -> kReleasing; false when it is already
  void transfer(RequestId request, const WorkerRef& worker, TransferState state);

  const LedgerLeg* find(RequestId request, const WorkerRef& worker) const;
  // Workers that hold something of the request, in order of their refs.
  std::vector<WorkerRef> holders(RequestId request) const;
  bool holds(RequestId request) const { return entries_.contains(request); }

  using Entry = std::map<WorkerRef, LedgerLeg>;  // never empty
  const std::map<RequestId, Entry>& entries() const { return entries_; }
  bool empty() const { return entries_.empty(); }
  size_t size() const { return entries_.size(); }  // requests
  size_t legs() const { return legs_; }
  // The index by worker agrees with the entries; legs and transfers fit together.
  absl::Status check() const;

 private:
  LedgerLeg* leg(RequestId request, const WorkerRef& worker);

  std::map<RequestId, Entry> entries_;
  std::map<WorkerRef, std::set<RequestId>> by_worker_;
  size_t legs_ = 0;
  uint64_t next_number_ = 1;
};

}  // namespace baton::coordinator
