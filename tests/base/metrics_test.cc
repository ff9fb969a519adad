#include "base/metrics.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace baton {
namespace {

bool has_line(const std::string& text, const std::string& line) {
  return ("\n" + text).find("\n" + line + "\n") != std::string::npos;
}

TEST(Metrics, CountsAndRenders) {
  Metrics m(MetricProcess::kCoordinator);
  m.add(Metric::kRequests, 2, {"chat", "200", "ok", "local"});
  m.set(Metric::kKvBlocks, 7, {"decode-0", "free"});
  m.observe(Metric::kItl, 0.003);
  const std::string text = m.render();
  EXPECT_TRUE(
      has_line(text, R"(baton_requests_total{code="200",endpoint="chat",outcome="ok",path="local"} 2)"))
      << text;
  EXPECT_TRUE(has_line(text, R"(baton_kv_blocks{state="free",worker="decode-0"} 7)"));
  EXPECT_TRUE(has_line(text, R"(baton_itl_seconds_bucket{le="0.005"} 1)"));
  EXPECT_TRUE(has_line(text, "baton_requests_in_flight 0")) << "metrics without labels exist at 0";
}

TEST(Metrics, RaiseNeverLowers) {
  Metrics m(MetricProcess::kWorker);
  m.raise(Metric::kSteps, 10);
  m.raise(Metric::kSteps, 4);
  m.raise(Metric::kSteps, 12);
  EXPECT_TRUE(has_line(m.render(), "baton_engine_steps_total 12"));
}

// A name that is there at 0 says that nothing happened; of what another process counts nothing is said.
TEST(Metrics, AProcessHasItsOwnOnly) {
  for (const MetricProcess process : {MetricProcess::kCoordinator, MetricProcess::kWorker}) {
    const std::string text = Metrics(process).render();
    for (const MetricRow& row : kMetricCatalog) {
      const bool plain = row.labels[0].empty();
      EXPECT_EQ(text.contains("# TYPE " + std::string(row.name) + " "),
                plain && has_metric(process, row.metric))
          << row.name;
    }
  }
  for (const MetricRow& row : kMetricCatalog)
    EXPECT_TRUE(has_metric(MetricProcess::kCoordinator, row.metric) ||
                has_metric(MetricProcess::kWorker, row.metric));
}

TEST(MetricCatalog, NamesFollowTheRules) {
  std::set<std::string_view> names;
  for (const MetricRow& row : kMetricCatalog) {
    EXPECT_TRUE(row.name.starts_with("baton_")) << row.name;
    EXPECT_EQ(row.kind == MetricKind::kCounter, row.name.ends_with("_total")) << row.name;
    EXPECT_EQ(row.kind == MetricKind::kHistogram, row.buckets != Buckets::kNone) << row.name;
    EXPECT_FALSE(row.help.empty()) << row.name;
    EXPECT_TRUE(names.insert(row.name).second) << row.name << " stands twice";
  }
}

}  // namespace
}  // namespace baton
