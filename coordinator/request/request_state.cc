#include "coordinator/request/request_state.h"

namespace baton::coordinator {
namespace {

using enum RequestState;
using enum RequestStep;

struct Transition {
  RequestState from;
  RequestStep step;
  RequestState to;
};

// The whole life of a request. What is not here cannot happen.
constexpr Transition kTransitions[] = {
    {kQueued, kRouted, kDispatching},
    {kQueued, kCancelled, kFinished},
    {kQueued, kGaveUp, kFailed},

    {kDispatching, kAdmitted, kPrefilling},
    {kDispatching, kReturned, kQueued},
    {kDispatching, kCancelled, kFinished},
    {kDispatching, kGaveUp, kFailed},

    {kPrefilling, kFirstToken, kLanding},
    {kPrefilling, kFirstWhole, kDecoding},
    {kPrefilling, kReturned, kQueued},
    {kPrefilling, kCancelled, kFinished},
    {kPrefilling, kGaveUp, kFailed},

    {kLanding, kNextToken, kDecoding},
    {kLanding, kCompleted, kFinished},  // the first token was the last
    {kLanding, kReturned, kQueued},     // the transfer failed; computed again elsewhere, equal to the bit
    {kLanding, kCancelled, kFinished},
    {kLanding, kGaveUp, kFailed},

    {kDecoding, kCompleted, kFinished},
    {kDecoding, kReturned, kQueued},  // its worker was lost: the answer goes on elsewhere
    {kDecoding, kCancelled, kFinished},
    {kDecoding, kGaveUp, kFailed},
};

}  // namespace

std::optional<RequestState> next_state(RequestState from, RequestStep step) {
  for (const Transition& t : kTransitions)
    if (t.from == from && t.step == step) return t.to;
  return std::nullopt;
}

const char* to_string(RequestState state) {
  switch (state) {
    case kQueued:
      return "queued";
    case kDispatching:
      return "dispatching";
    case kPrefilling:
      return "prefilling";
    case kLanding:
      return "landing";
    case kDecoding:
      return "decoding";
    case kFinished:
      return "finished";
    case kFailed:
      return "failed";
  }
  return "?";
}

const char* to_string(RequestStep step) {
  switch (step) {
    case kRouted:
      return "routed";
    case kAdmitted:
      return "admitted";
    case kFirstToken:
      return "first-token";
    case kFirstWhole:
      return "first-whole";
    case kNextToken:
      return "next-token";
    case kReturned:
      return "returned";
    case kCompleted:
      return "completed";
    case kCancelled:
      return "cancelled";
    case kGaveUp:
      return "gave-up";
  }
  return "?";
}

}  // namespace baton::coordinator
