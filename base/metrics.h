#pragma once

#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>

#include "base/metric_catalog.h"

namespace baton {

// The metrics of one process, by prometheus-cpp. Label values are given in the order of the catalogue row. A
// label set appears with its first use; touch() makes it appear at 0. Thread: any. Not for the inside of an
// engine step: the engine counts in its own fields, the wiring copies them here.
class Metrics {
 public:
  using LabelValues = std::initializer_list<std::string_view>;

  // Those of one kind of process.
  explicit Metrics(MetricProcess process);
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  void touch(Metric metric, LabelValues labels = {});
  void add(Metric counter, double value, LabelValues labels = {});
  // For totals that another thread counts: raises the counter to `total` (never lowers it).
  void raise(Metric counter, double total, LabelValues labels = {});
  void set(Metric gauge, double value, LabelValues labels = {});
  void observe(Metric histogram, double value, LabelValues labels = {});

  // Prometheus text format 0.0.4.
  std::string render() const;

 private:
  struct Registry;
  std::unique_ptr<Registry> registry_;
};

}  // namespace baton
