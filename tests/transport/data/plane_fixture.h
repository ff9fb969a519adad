#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/test_certificates.h"
#include "transport/data/host_id.h"
#include "transport/data/loopback_data_plane.h"
#include "transport/data/process_data_plane.h"
#include "transport/data/socket_data_plane.h"
#include "transport/data/ucx_data_plane.h"

namespace baton::transport {

// The ways two planes of this machine can be connected.
enum class Fabric { kLoopbackStream, kLoopbackLocal, kUcxAm, kUcxLocal, kSocket, kSocketLocal, kTls, kGet };

inline std::string fabric_name(Fabric fabric) {
  switch (fabric) {
    case Fabric::kLoopbackStream:
      return "loopback";
    case Fabric::kLoopbackLocal:
      return "loopback_local";
    case Fabric::kUcxAm:
      return "am";
    case Fabric::kUcxLocal:
      return "am_local";
    case Fabric::kSocket:
      return "socket";
    case Fabric::kSocketLocal:
      return "socket_local";
    case Fabric::kTls:
      return "socket_tls";
    case Fabric::kGet:
      return "get";
  }
  return "?";
}
inline std::string lane_of(Fabric fabric) {
  if (fabric == Fabric::kLoopbackStream) return "loopback";
  if (fabric == Fabric::kSocket) return "socket";
  if (fabric == Fabric::kTls) return "socket-tls";
  if (fabric == Fabric::kGet) return "get";
  return fabric == Fabric::kUcxAm ? "am" : "local";
}
inline AllowedLanes lanes_of(Fabric fabric) {
  const bool local = lane_of(fabric) == "local";
  const bool get = fabric == Fabric::kGet;
  return {.local = local, .stream = !local && !get, .get = get, .emulate_get = get};
}

inline bool goes_without_checksums(Fabric fabric) {
  return fabric != Fabric::kUcxAm && fabric != Fabric::kUcxLocal && fabric != Fabric::kGet;
}

inline DataPlaneOptions plane_options(const std::string& name, uint64_t incarnation,
                                      AllowedLanes lanes = {}) {
  return {.identity = {.self = {name, Incarnation(incarnation)},
                       .host_id = host_id(),
                       .kv_layout_hash = "layout",
                       .model_hash = "model",
                       .numerics_id = "numerics"},
          .callers = Callers::kAnybody,
          .lanes = lanes,
          .pool_bytes = 1 << 20,
          .prefault_pool = false};
}

inline std::unique_ptr<DataPlane> make_plane(Fabric fabric, LoopbackHub& hub,
                                             const DataPlaneOptions& options) {
  const bool ucx = fabric == Fabric::kUcxAm || fabric == Fabric::kUcxLocal;
  const bool socket = fabric == Fabric::kSocket || fabric == Fabric::kSocketLocal;
  DataPlaneOptions with_tls = options;
  with_tls.tls = TestCertificates::get().as("worker");
  auto plane = ucx                      ? make_ucx_data_plane(options)
               : fabric == Fabric::kTls ? make_socket_data_plane(with_tls)
               : socket                 ? make_socket_data_plane(options)
               : fabric == Fabric::kGet ? make_process_data_plane(options)
                                        : make_loopback_data_plane(hub, options);
  EXPECT_TRUE(plane.ok()) << plane.status();
  return plane.ok() ? *std::move(plane) : nullptr;
}

inline WorkerDescription describe(const DataPlane& plane, const WorkerRef& ref) {
  return {.ref = ref, .data_address = plane.address()};
}

// Calls `step` until `done`; false after a real minute, before a test's time limit.
inline bool drive(const std::function<void()>& step, const std::function<bool()>& done) {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!done()) {
    if (std::chrono::steady_clock::now() > limit) return false;
    step();
  }
  return true;
}

// A plane with a listener that writes everything down and lands pieces where it is told.
class RecordingPlane final : public DataPlaneListener {
 public:
  RecordingPlane(Fabric fabric, LoopbackHub& hub, const DataPlaneOptions& options)
      : RecordingPlane(options.identity.self, make_plane(fabric, hub, options)) {}
  RecordingPlane(WorkerRef ref, std::unique_ptr<DataPlane> made)
      : ref(std::move(ref)), plane(std::move(made)) {
    plane->set_listener(*this);
  }

  void on_peer(const PeerEvent& event) override { peers.push_back(event); }
  void on_message(const WorkerRef& from, std::span<const std::byte> message) override {
    messages.emplace_back(from, std::string(reinterpret_cast<const char*>(message.data()), message.size()));
  }
  absl::StatusOr<std::vector<PoolRun>> on_offer(const WorkerRef&, std::span<const std::byte> header,
                                                uint64_t bytes) override {
    offered.emplace_back(reinterpret_cast<const char*>(header.data()), header.size());
    if (on_offer_hook) on_offer_hook();
    if (!refusal.ok()) return refusal;
    if (!places.empty()) return places;
    return std::vector<PoolRun>{{.offset = 0, .bytes = bytes}};
  }
  bool still_wanted(const WorkerRef&, std::span<const std::byte>) override {
    return !still_wanted_hook || still_wanted_hook();
  }
  absl::Status on_landed(const WorkerRef&, std::span<const std::byte>, const absl::Status& moved) override {
    landed.push_back(moved);
    return moved;
  }
  void on_answer(const WorkerRef&, uint64_t cookie, const absl::Status& verdict) override {
    answers.emplace_back(cookie, verdict);
  }
  bool saw(PeerEvent::Kind kind) const {
    for (const auto& p : peers)
      if (p.kind == kind) return true;
    return false;
  }

  WorkerRef ref;
  std::unique_ptr<DataPlane> plane;
  std::vector<PeerEvent> peers;
  std::vector<std::pair<WorkerRef, std::string>> messages;
  std::vector<std::string> offered;
  std::vector<absl::Status> landed;
  std::vector<std::pair<uint64_t, absl::Status>> answers;
  absl::Status refusal;
  std::vector<PoolRun> places;
  std::function<void()> on_offer_hook;
  std::function<bool()> still_wanted_hook;
};

}  // namespace baton::transport
