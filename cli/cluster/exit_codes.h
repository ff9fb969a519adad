#pragma once

namespace baton::cli {

// Of every command.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitNotReady = 3;
inline constexpr int kExitRankLost = 4;  // of a rank: another one of its group is gone or silent

}  // namespace baton::cli
