// Renders every metric of one kind of process, for promtool.
#include <cstdio>
#include <string>
#include <string_view>

#include "base/metrics.h"

namespace {

// Every metric of one kind of process, once.
std::string render(baton::MetricProcess process) {
  baton::Metrics metrics(process);
  for (const auto& row : baton::kMetricCatalog) {
    if (!baton::has_metric(process, row.metric)) continue;
    size_t labels = 0;
    while (labels < row.labels.size() && !row.labels[labels].empty()) ++labels;
    switch (labels) {
      case 0:
        metrics.touch(row.metric);
        break;
      case 1:
        metrics.touch(row.metric, {"a"});
        break;
      case 2:
        metrics.touch(row.metric, {"a", "b"});
        break;
      case 3:
        metrics.touch(row.metric, {"a", "b", "c"});
        break;
      default:
        metrics.touch(row.metric, {"a", "b", "c", "d"});
        break;
    }
  }
  return metrics.render();
}

}  // namespace

// print_metrics coordinator|worker
int main(int argc, char** argv) {
  const bool worker = argc > 1 && std::string_view(argv[1]) == "worker";
  const auto process = worker ? baton::MetricProcess::kWorker : baton::MetricProcess::kCoordinator;
  std::fputs(render(process).c_str(), stdout);
}
