#include "benchmarks/micro/machine.h"

#include <map>

namespace baton::benchmarks {

const kernels::roofline::Peaks& ceilings(int threads) {
  static std::map<int, kernels::roofline::Peaks> measured;
  const auto found = measured.find(threads);
  if (found != measured.end()) return found->second;
  using kernels::roofline::Ceilings;
  const auto timing = threads == 1 ? Ceilings::Timing::kThreadCpu : Ceilings::Timing::kWall;
  return measured[threads] = Ceilings(threads, {}, timing).measure(7);
}

}  // namespace baton::benchmarks
