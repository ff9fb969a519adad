#pragma once

#include <memory>
#include <string>

#include "tests/support/network_hosts.h"
#include "tests/worker/kv_transfer/victim.h"

namespace baton::worker {

// The survivor lives on host 0, the victim on host 1. Thread: one.
class TwoPeers {
 public:
  static absl::StatusOr<std::unique_ptr<TwoPeers>> make() {
    ASSIGN_OR_RETURN(auto hosts, NetworkHosts::make(2));
    return std::unique_ptr<TwoPeers>(new TwoPeers(std::move(hosts)));
  }
  NetworkHosts& hosts() { return *hosts_; }
  // The test's own thread is on host 0 meanwhile, with that host's interfaces.
  void on_host_0(const std::function<void()>& body) {
    hosts_->inside(0, [&] {
      ASSERT_TRUE(NetworkHosts::show_own_interfaces());
      body();
    });
  }
  std::unique_ptr<Survivor> survivor(const std::string& lane, bool sink) {
    return std::make_unique<Survivor>(lane, sink, hosts_->address(0));
  }
  std::unique_ptr<VictimProcess> victim(const std::string& role, const std::string& lane, uint64_t life = 1) {
    std::unique_ptr<VictimProcess> made;
    hosts_->inside(1,
                   [&] { made = std::make_unique<VictimProcess>(role, lane, life, 0, hosts_->address(1)); });
    return made;
  }

 private:
  explicit TwoPeers(std::unique_ptr<NetworkHosts> hosts) : hosts_(std::move(hosts)) {}
  const std::unique_ptr<NetworkHosts> hosts_;
};

}  // namespace baton::worker
