// Renders every metric of the catalogue once, for promtool.
#include <cstdio>

#include "base/metrics.h"

int main() {
  baton::Metrics metrics;
  for (const auto& row : baton::kMetricCatalog) {
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
  std::fputs(metrics.render().c_str(), stdout);
}
