#include "base/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <map>
#include <mutex>
#include <vector>

#include "base/check.h"

namespace baton {
namespace {

static_assert(std::size(kMetricCatalog) == static_cast<size_t>(Metric::kCount));
consteval bool catalog_in_order() {
  for (size_t i = 0; i < std::size(kMetricCatalog); ++i)
    if (kMetricCatalog[i].metric != static_cast<Metric>(i)) return false;
  return true;
}
static_assert(catalog_in_order());

const MetricRow& row_of(Metric metric) { return kMetricCatalog[static_cast<size_t>(metric)]; }

prometheus::Histogram::BucketBoundaries boundaries(Buckets buckets) {
  switch (buckets) {
    case Buckets::kLatency:
      return {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75,
              1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640};
    case Buckets::kItl:
      return {.0005, .001, .002, .005, .01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 10, 40};
    case Buckets::kStep:
      return {.0001, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 5};
    case Buckets::kTokens:
      return {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000};
    case Buckets::kBatch:
      return {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048};
    case Buckets::kNone:
      break;
  }
  return {1};
}

}  // namespace

struct Metrics::Registry {
  prometheus::Registry registry;
  std::vector<prometheus::Family<prometheus::Counter>*> counters;
  std::vector<prometheus::Family<prometheus::Gauge>*> gauges;
  std::vector<prometheus::Family<prometheus::Histogram>*> histograms;
  // Of the rows without labels: counted for every token, so they are not looked up.
  std::vector<prometheus::Counter*> plain_counters;
  std::vector<prometheus::Histogram*> plain_histograms;
  std::mutex raise_mutex;

  prometheus::Counter& counter(Metric metric, LabelValues labels);
  prometheus::Histogram& histogram(Metric metric, LabelValues labels);
};

namespace {

template <class Family>
Family& there(Family* family) {
  BATON_CHECK(family != nullptr, "a metric of another kind of process");
  return *family;
}

prometheus::Labels labels_of(Metric metric, Metrics::LabelValues values) {
  const MetricRow& row = row_of(metric);
  prometheus::Labels labels;
  size_t i = 0;
  for (std::string_view v : values) {
    BATON_CHECK(i < row.labels.size() && !row.labels[i].empty(),
                "more label values than the catalogue row has");
    labels[std::string(row.labels[i++])] = std::string(v);
  }
  BATON_CHECK(i == row.labels.size() || row.labels[i].empty(),
              "fewer label values than the catalogue row has");
  return labels;
}

}  // namespace

prometheus::Counter& Metrics::Registry::counter(Metric metric, LabelValues labels) {
  const size_t i = static_cast<size_t>(metric);
  if (labels.size() == 0 && plain_counters[i] != nullptr) return *plain_counters[i];
  return there(counters[i]).Add(labels_of(metric, labels));
}

prometheus::Histogram& Metrics::Registry::histogram(Metric metric, LabelValues labels) {
  const size_t i = static_cast<size_t>(metric);
  if (labels.size() == 0 && plain_histograms[i] != nullptr) return *plain_histograms[i];
  return there(histograms[i]).Add(labels_of(metric, labels), boundaries(row_of(metric).buckets));
}

Metrics::Metrics(MetricProcess process) : registry_(std::make_unique<Registry>()) {
  constexpr size_t kCount = static_cast<size_t>(Metric::kCount);
  registry_->counters.resize(kCount);
  registry_->gauges.resize(kCount);
  registry_->histograms.resize(kCount);
  registry_->plain_counters.resize(kCount);
  registry_->plain_histograms.resize(kCount);
  for (size_t i = 0; i < kCount; ++i) {
    const MetricRow& row = kMetricCatalog[i];
    if (!has_metric(process, row.metric)) continue;
    const std::string name(row.name), help(row.help);
    switch (row.kind) {
      case MetricKind::kCounter:
        registry_->counters[i] =
            &prometheus::BuildCounter().Name(name).Help(help).Register(registry_->registry);
        break;
      case MetricKind::kGauge:
        registry_->gauges[i] = &prometheus::BuildGauge().Name(name).Help(help).Register(registry_->registry);
        break;
      case MetricKind::kHistogram:
        registry_->histograms[i] =
            &prometheus::BuildHistogram().Name(name).Help(help).Register(registry_->registry);
        break;
    }
    if (!row.labels[0].empty()) continue;
    if (row.kind == MetricKind::kCounter) registry_->plain_counters[i] = &registry_->counter(row.metric, {});
    if (row.kind == MetricKind::kHistogram)
      registry_->plain_histograms[i] = &registry_->histogram(row.metric, {});
    if (row.kind == MetricKind::kGauge) touch(row.metric);
  }
}

Metrics::~Metrics() = default;

void Metrics::touch(Metric metric, LabelValues labels) {
  const size_t i = static_cast<size_t>(metric);
  switch (row_of(metric).kind) {
    case MetricKind::kCounter:
      registry_->counter(metric, labels);
      break;
    case MetricKind::kGauge:
      there(registry_->gauges[i]).Add(labels_of(metric, labels));
      break;
    case MetricKind::kHistogram:
      registry_->histogram(metric, labels);
      break;
  }
}

void Metrics::add(Metric metric, double value, LabelValues labels) {
  BATON_CHECK(row_of(metric).kind == MetricKind::kCounter);
  registry_->counter(metric, labels).Increment(value);
}

void Metrics::raise(Metric metric, double total, LabelValues labels) {
  BATON_CHECK(row_of(metric).kind == MetricKind::kCounter);
  auto& counter = registry_->counter(metric, labels);
  std::lock_guard lock(registry_->raise_mutex);
  if (const double more = total - counter.Value(); more > 0) counter.Increment(more);
}

void Metrics::set(Metric metric, double value, LabelValues labels) {
  BATON_CHECK(row_of(metric).kind == MetricKind::kGauge);
  there(registry_->gauges[static_cast<size_t>(metric)]).Add(labels_of(metric, labels)).Set(value);
}

void Metrics::observe(Metric metric, double value, LabelValues labels) {
  BATON_CHECK(row_of(metric).kind == MetricKind::kHistogram);
  registry_->histogram(metric, labels).Observe(value);
}

std::string Metrics::render() const {
  return prometheus::TextSerializer().Serialize(registry_->registry.Collect());
}

}  // namespace baton
