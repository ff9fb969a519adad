#include "cli/pause_point.h"

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <thread>

namespace baton::cli {
namespace {

// Shorter than any deadline of a hand-over: who is paused is slow, not lost.
constexpr int kLongest = 800;

const char* text(worker::KvPhase phase) {
  return phase == worker::KvPhase::kGrant      ? "grant"
         : phase == worker::KvPhase::kTransfer ? "transfer"
                                               : "last_layer";
}

}  // namespace

std::function<void(worker::KvPhase, TransferId)> pause_point(const std::string& process) {
  const char* file = std::getenv("BATON_TEST_PAUSE");
  if (file == nullptr) return {};
  return [path = std::string(file), process, paused = TransferId()](worker::KvPhase phase,
                                                                    TransferId transfer) mutable {
    std::string wanted;
    int milliseconds = 0;
    std::ifstream(path) >> wanted >> milliseconds;
    if (wanted != text(phase) || milliseconds < 1 || paused == transfer) return;
    paused = transfer;
    std::ofstream(path + ".hit", std::ios::app) << process << std::endl;
    std::this_thread::sleep_for(std::chrono::milliseconds(std::min(milliseconds, kLongest)));
  };
}

}  // namespace baton::cli
