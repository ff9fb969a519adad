#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"

namespace baton::load {

struct MeteredProcess {
  std::string name;
  std::string role;
  int pid = 0;
};

struct ProcessUse {
  MeteredProcess process;
  double cpu_seconds = 0;
  uint64_t rss_bytes = 0;       // now
  uint64_t rss_peak_bytes = 0;  // of its life
};

// What a measured time cost, and whom.
struct Usage {
  double wall_seconds = 0;
  std::vector<ProcessUse> processes;
  double servers_cpu_seconds = 0;
  double client_cpu_seconds = 0;
  double others_cpu_seconds = 0;  // of this machine, by everybody else, interrupts too
  double steal_seconds = 0;       // taken by the host
};

// CPU time of the server's processes, of this process and of the whole machine between start() and stop().
// Process times are exact to the nanosecond (their CPU clocks), machine times to a tick. A process that has
// ended counts as nothing. Thread: one.
class ProcessMeter {
 public:
  explicit ProcessMeter(std::vector<MeteredProcess> processes) : processes_(std::move(processes)) {}
  void start();
  Usage stop() const;

 private:
  struct Reading {
    Instant at{};
    std::vector<double> processes;
    double self = 0, busy = 0, steal = 0;
  };
  Reading read() const;

  std::vector<MeteredProcess> processes_;
  Reading begun_;
};

double process_cpu_seconds(int pid);  // 0 when there is none

// Puts the calling thread before all ordinary ones where that is allowed, for the life of the object: on a
// machine that the servers fill, a client that waits for its turn would measure its own waiting. Used by a
// client that needs a few percent of one core. Threads and processes started meanwhile do not inherit it.
class FirstInTurn {
 public:
  FirstInTurn();
  ~FirstInTurn();
  FirstInTurn(const FirstInTurn&) = delete;
  FirstInTurn& operator=(const FirstInTurn&) = delete;
  bool granted() const { return granted_; }

 private:
  bool granted_ = false;
};

}  // namespace baton::load
