// FramedDataPlane: lanes that have become slow are tested again. The side that offers notices and asks; the
// side that moves the bytes tests, as it did when the two met, and says what came of it. A lane that is
// wrong ends the connection on both sides: there is no other lane to fall to without a new handshake.
#include <utility>

#include "base/cat.h"
#include "base/check.h"
#include "base/timers.h"
#include "transport/data/session.h"

namespace baton::transport {
namespace {

std::string gigabytes(double bytes_per_second) { return cat(bytes_per_second / 1e9, " GB/s"); }

}  // namespace

Instant FramedDataPlane::lane_check_due(const Session& session) const {
  if (!session.ready()) return kNever;
  return std::min(session.watch.due(session.rate.under_way.empty()), session.watch.deadline());
}

void FramedDataPlane::check_lanes() {
  std::vector<Session*> due;
  for (auto& [link, session] : sessions_)
    if (now_ >= lane_check_due(*session)) due.push_back(session.get());
  for (Session* session : due) {
    if (session->watch.waiting()) {
      end_session(*session,
                  cat("lane ", lane_name(*session), ": asked for a test transfer and got no answer"));
      continue;
    }
    session->watch.asked(now_);
    session->handshake->serve_again();
    transmit(*session, CheckLaneFrame{}, "", {});
  }
}

// The peer finds that its offers go slowly.
void FramedDataPlane::on_check_lane(Session& session) {
  if (session.stream_test || session.test != 0 || now_ < session.next_check)
    return violation(session, "frame: a lane is tested too often");
  session.next_check = now_ + timers::kLaneCheckPause / 2;
  if (session.lane() == Lane::kLocal)
    return lane_tested(session, test_local(*session.handshake->peer_pool(),
                                           session.handshake->remote().probe_checksum, clock_));
  if (session.pulls_lane()) return test_pull(session, session.handshake->peer_memory());
  session.stream_test.emplace(terms_.probe_frame_bytes, clock_);
  transmit(session, session.stream_test->request(), "", {});
}

void FramedDataPlane::on_test_frame(Session& session, const ProbeFrame& frame,
                                    std::span<const std::byte> payload) {
  if (!session.stream_test || !session.stream_test->take(frame, payload))
    return violation(session, "frame: out of place");
  if (!session.stream_test->over()) return;
  const auto result = session.stream_test->result();
  session.stream_test.reset();
  lane_tested(session, result);
}

void FramedDataPlane::lane_tested(Session& session, const absl::StatusOr<double>& result) {
  LaneCheckedFrame answer{.verified = result.ok()};
  if (result.ok()) answer.bytes_per_second = static_cast<uint64_t>(*result);
  if (!result.ok()) answer.detail = std::string(result.status().message());
  transmit(session, answer, "", {});
  if (!result.ok()) lane_failed(session, answer.detail);
}

void FramedDataPlane::on_lane_checked(Session& session, const LaneCheckedFrame& answer) {
  if (!session.watch.waiting()) return violation(session, "frame: out of place");
  if (!answer.verified) return lane_failed(session, answer.detail);
  const double before = session.watch.usual();
  session.watch.verified();
  ++counters_->lanes_tested_again;
  PeerEvent event = connected_event(session);
  event.detail =
      cat("tested again and right: transfers get ", gigabytes(session.watch.usual()), ", before ",
          gigabytes(before), "; the test transfer ", gigabytes(static_cast<double>(answer.bytes_per_second)));
  listener_->on_peer(event);
}

void FramedDataPlane::lane_failed(Session& session, const std::string& why) {
  ++counters_->lanes_failed;
  end_session(session, cat("lane ", lane_name(session), ": tested again: ", why));
}

}  // namespace baton::transport
