#pragma once

#include <map>
#include <string>
#include <utility>

#include "base/metrics.h"
#include "coordinator/gateway/gateway_observer.h"
#include "coordinator/membership/membership.h"
#include "coordinator/request/request_record.h"

namespace baton::cli {

// Counts what the request flow and membership do, and writes their log lines. Thread: control.
class FlowMetrics final : public coordinator::RequestObserver {
 public:
  explicit FlowMetrics(Metrics& metrics);
  void on_route(RequestId request, const coordinator::Route& route) override;
  void on_tokens(RequestId request, int32_t count, bool first, Duration gap) override;
  void on_transfer(const WorkerRef& receiver, const TransferReport& report) override;
  void on_link(const WorkerRef& worker, const PeerReport& report) override;
  void on_end(const coordinator::RequestRecord& record) override;
  void on_membership(const coordinator::MembershipDecision& decision);

 private:
  void forget_links(const std::string& worker);
  Metrics& metrics_;
  std::map<std::pair<std::string, std::string>, std::string> lanes_;  // of connected pairs, by names
};

// The gateway's counts and its log line per call. Thread: io.
coordinator::GatewayObserver gateway_observer(Metrics& metrics);

}  // namespace baton::cli
