#pragma once

#include <cstdint>
#include <optional>

namespace baton::coordinator {

// Where a request stands, as the coordinator sees it.
enum class RequestState : uint8_t {
  kQueued,       // in the admission queue; no worker works for it (former ones may be letting go)
  kDispatching,  // its legs were sent, not all have answered. In P/D this is the reservation
  kPrefilling,   // all accepted; the first token is not known yet
  kLanding,      // P/D: the client has the first token, the KV is on its way
  kDecoding,     // tokens flow from the decode (or whole) leg
  kFinished,     // terminal: the stream ended as it should, or the client left
  kFailed,       // terminal: the client got an error
};

enum class RequestStep : uint8_t {
  kRouted,      // dispatched to workers
  kAdmitted,    // every leg was accepted
  kFirstToken,  // of a prefill leg
  kFirstWhole,  // of a whole leg
  kNextToken,   // the decode leg's first
  kReturned,    // refused, not acknowledged, worker lost or transfer failed: to be routed again
  kCompleted,   // the last token is out
  kCancelled,   // the client left
  kGaveUp,      // error or deadline
};

const char* to_string(RequestState state);
const char* to_string(RequestStep step);

// nullopt: that step is not possible in that state.
std::optional<RequestState> next_state(RequestState from, RequestStep step);

}  // namespace baton::coordinator
