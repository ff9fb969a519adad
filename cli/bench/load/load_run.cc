#include "cli/bench/load/load_run.h"

#include <algorithm>

#include "base/check.h"

namespace baton::load {
namespace {

Instant now() { return std::chrono::steady_clock::now(); }

// A stream's tag tells group and number.
constexpr int kGroupShift = 24;

struct Progress {
  int started = 0;
  int open = 0;
};

class Run {
 public:
  Run(StreamClient& client, const std::vector<LoadGroup>& groups) : client_(client), groups_(groups) {
    progress_.resize(groups.size());
    for (const LoadGroup& g : groups) {
      BATON_CHECK(!g.requests.empty() && g.arrivals.count <= static_cast<int>(g.requests.size()));
      result_.groups.push_back({.name = g.name, .streams = {}});
    }
  }

  LoadResult run() {
    begun_ = now();
    while (start_due(), client_.open() > 0 || counted_left()) take(client_.wait(next_arrival()));
    result_.wall = now() - begun_;
    return std::move(result_);
  }

 private:
  // Has a group with a count not ended?
  bool counted_left() const {
    for (size_t g = 0; g < groups_.size(); ++g)
      if (!groups_[g].arrivals.endless() &&
          (progress_[g].open > 0 || progress_[g].started < groups_[g].arrivals.count))
        return true;
    return false;
  }

  void start_due() {
    const bool more = counted_left();
    for (size_t g = 0; g < groups_.size(); ++g) {
      const Arrivals& arrivals = groups_[g].arrivals;
      if (arrivals.endless() && !more) continue;
      Progress& p = progress_[g];
      for (int n = arrivals.due(p.started, p.open, now() - begun_); n > 0; --n) start_one(g);
    }
  }

  void start_one(size_t group) {
    Progress& p = progress_[group];
    const auto& requests = groups_[group].requests;
    const int number = p.started++;
    ++p.open;
    result_.groups[group].streams.emplace_back();
    client_.start(requests[static_cast<size_t>(number) % requests.size()],
                  static_cast<int>(group) << kGroupShift | number);
  }

  Instant next_arrival() const {
    Instant next = now() + std::chrono::hours(1);
    for (size_t g = 0; g < groups_.size(); ++g)
      if (const Duration at = groups_[g].arrivals.next(progress_[g].started); at != Duration::max())
        next = std::min(next, begun_ + at);
    return next;
  }

  void take(std::vector<StreamClient::Ended> ended) {
    for (auto& e : ended) {
      const size_t group = static_cast<size_t>(e.tag >> kGroupShift);
      --progress_[group].open;
      result_.groups[group].streams[static_cast<size_t>(e.tag & ((1 << kGroupShift) - 1))] =
          std::move(e.record);
    }
  }

  StreamClient& client_;
  const std::vector<LoadGroup>& groups_;
  std::vector<Progress> progress_;
  LoadResult result_;
  Instant begun_{};
};

}  // namespace

LoadResult run_load(StreamClient& client, ProcessMeter& meter, const std::vector<LoadGroup>& groups) {
  Run run(client, groups);
  const FirstInTurn first;
  meter.start();
  LoadResult result = run.run();
  result.first_in_turn = first.granted();
  result.usage = meter.stop();
  return result;
}

}  // namespace baton::load
