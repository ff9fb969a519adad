#pragma once

#include <chrono>

// Every timer of the system in one place; monotonic. tests/base/timers_test.cc pins each value.
namespace baton::timers {

using namespace std::chrono_literals;

inline constexpr auto kHeartbeat = 250ms;
inline constexpr auto kSuspect = 1s;
inline constexpr auto kDead = 1500ms;
inline constexpr auto kStepSuspect = 10s;  // a step that lasts so long, and 5 times as long as predicted ...
inline constexpr auto kStepDead = 120s;    // ... so long, and 20 times as long: its worker is lost
inline constexpr auto kRankBeat = 250ms;   // ranks of a group meet this often ...
inline constexpr auto kRankSilent = 1500ms;  // ... and a rank that does not come for so long is lost
inline constexpr auto kOwnPause = 250ms;  // slept longer than asked by this: the process itself did not run
inline constexpr auto kDispatchAck = 1s;
inline constexpr auto kGrammarAck = 5s;  // of a request with a grammar: a worker's first loads the vocabulary
inline constexpr auto kAdmissionQueue = 10s;
inline constexpr auto kRequestTotal = 600s;
inline constexpr auto kLeaseTtl = 3s;
inline constexpr auto kLeaseRenew = 1s;
inline constexpr auto kSelfFenceMargin = 500ms;
inline constexpr auto kQuarantineBeforeTeardown = 1s;
inline constexpr auto kSourceLease = 10s;
inline constexpr auto kSourceLeaseRenew = 2s;
inline constexpr auto kDrainCap = 30s;
inline constexpr auto kPoolPatience =
    30s;  // a coordinator with its first worker is not ready before the other pools
inline constexpr auto kSseKeepAlive = 10s;
inline constexpr auto kWriteStall = 30s;
inline constexpr auto kTransferBase = 1s;     // a piece's deadline: this + bytes / (0.1 x measured rate) ...
inline constexpr auto kTransferCap = 10s;     // ... at most this
inline constexpr auto kLaneCheckPause = 60s;  // between two tests of a lane that has become slow
inline constexpr auto kHttpHead = 10s;
inline constexpr auto kHttpKeepAlive = 75s;

}  // namespace baton::timers
