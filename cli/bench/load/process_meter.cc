#include "cli/bench/load/process_meter.h"

#include <sched.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "base/cat.h"

namespace baton::load {
namespace {

double clock_seconds(clockid_t clock) {
  timespec t{};
  if (::clock_gettime(clock, &t) != 0) return 0;
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

// VmRSS and VmHWM of /proc/PID/status stand in KiB.
uint64_t status_bytes(int pid, const std::string& name) {
  std::ifstream in(cat("/proc/", pid, "/status"));
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(name)) return std::strtoull(line.c_str() + name.size(), nullptr, 10) * 1024;
  return 0;
}

}  // namespace

double process_cpu_seconds(int pid) {
  clockid_t clock{};
  return ::clock_getcpuclockid(pid, &clock) == 0 ? clock_seconds(clock) : 0;
}

ProcessMeter::Reading ProcessMeter::read() const {
  Reading r;
  r.at = std::chrono::steady_clock::now();
  for (const MeteredProcess& p : processes_) r.processes.push_back(process_cpu_seconds(p.pid));
  r.self = clock_seconds(CLOCK_PROCESS_CPUTIME_ID);
  std::ifstream in("/proc/stat");
  std::string word;
  double user = 0, nice = 0, system = 0, idle = 0, wait = 0, irq = 0, softirq = 0, steal = 0;
  in >> word >> user >> nice >> system >> idle >> wait >> irq >> softirq >> steal;
  const auto ticks = static_cast<double>(::sysconf(_SC_CLK_TCK));
  r.busy = (user + nice + system + irq + softirq) / ticks;
  r.steal = steal / ticks;
  return r;
}

void ProcessMeter::start() { begun_ = read(); }

Usage ProcessMeter::stop() const {
  const Reading ended = read();
  Usage out;
  out.wall_seconds = to_seconds(ended.at - begun_.at);
  for (size_t i = 0; i < processes_.size(); ++i) {
    const int pid = processes_[i].pid;
    out.processes.push_back({.process = processes_[i],
                             .cpu_seconds = std::max(0.0, ended.processes[i] - begun_.processes[i]),
                             .rss_bytes = status_bytes(pid, "VmRSS:"),
                             .rss_peak_bytes = status_bytes(pid, "VmHWM:")});
    out.servers_cpu_seconds += out.processes.back().cpu_seconds;
  }
  out.client_cpu_seconds = ended.self - begun_.self;
  out.steal_seconds = ended.steal - begun_.steal;
  out.others_cpu_seconds =
      std::max(0.0, ended.busy - begun_.busy - out.servers_cpu_seconds - out.client_cpu_seconds);
  return out;
}

FirstInTurn::FirstInTurn() {
  const sched_param priority{.sched_priority = 1};
  granted_ = ::sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &priority) == 0;
}

FirstInTurn::~FirstInTurn() {
  const sched_param none{};
  if (granted_) ::sched_setscheduler(0, SCHED_OTHER, &none);
}

}  // namespace baton::load
