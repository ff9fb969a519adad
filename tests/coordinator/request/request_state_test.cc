#include "coordinator/request/request_state.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

namespace baton::coordinator {
namespace {

using enum RequestState;
using enum RequestStep;

constexpr RequestState kStates[] = {kQueued,   kDispatching, kPrefilling, kLanding,
                                    kDecoding, kFinished,    kFailed};
constexpr RequestStep kSteps[] = {kRouted,   kAdmitted,  kFirstToken, kFirstWhole, kNextToken,
                                  kReturned, kCompleted, kCancelled,  kGaveUp};

TEST(RequestState, TerminalStatesHaveNoWayOut) {
  for (const RequestStep step : kSteps) {
    EXPECT_FALSE(next_state(kFinished, step).has_value());
    EXPECT_FALSE(next_state(kFailed, step).has_value());
  }
}

TEST(RequestState, EveryOtherStateCanFailAndBeCancelled) {
  for (const RequestState state : {kQueued, kDispatching, kPrefilling, kLanding, kDecoding}) {
    EXPECT_EQ(next_state(state, kGaveUp), kFailed);
    EXPECT_EQ(next_state(state, kCancelled), kFinished);
  }
}

TEST(RequestState, OnlyTheTableIsPossible) {
  const std::map<std::pair<RequestState, RequestStep>, RequestState> table = {
      {{kQueued, kRouted}, kDispatching},      {{kDispatching, kAdmitted}, kPrefilling},
      {{kDispatching, kReturned}, kQueued},    {{kPrefilling, kFirstToken}, kLanding},
      {{kPrefilling, kFirstWhole}, kDecoding}, {{kPrefilling, kReturned}, kQueued},
      {{kLanding, kNextToken}, kDecoding},     {{kLanding, kCompleted}, kFinished},
      {{kLanding, kReturned}, kQueued},        {{kDecoding, kCompleted}, kFinished},
      {{kDecoding, kReturned}, kQueued},
  };
  for (const RequestState state : kStates) {
    for (const RequestStep step : kSteps) {
      if (step == kGaveUp || step == kCancelled) continue;
      const auto want = table.find({state, step});
      const auto got = next_state(state, step);
      ASSERT_EQ(got.has_value(), want != table.end()) << to_string(state) << " " << to_string(step);
      if (got.has_value()) {
        EXPECT_EQ(*got, want->second) << to_string(state) << " " << to_string(step);
      }
    }
  }
}

TEST(RequestState, NamesDiffer) {
  std::set<std::string> names;
  for (const RequestState state : kStates) names.insert(to_string(state));
  for (const RequestStep step : kSteps) names.insert(to_string(step));
  EXPECT_EQ(names.size(), std::size(kStates) + std::size(kSteps));
}

}  // namespace
}  // namespace baton::coordinator
