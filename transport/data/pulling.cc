// FramedDataPlane, receiving half on pull lanes: the bytes of an offer, and test data, are read out of the
// peer's memory by something other than this thread. A place that such a read was given is in use until the
// read has ended, and on_landed() says so, whatever became of the peer meanwhile (design I2).
#include <algorithm>
#include <memory>
#include <utility>

#include "base/check.h"
#include "base/timers.h"
#include "transport/data/byte_codec.h"
#include "transport/data/session.h"

namespace baton::transport {
namespace {

constexpr auto kTestDeadline = timers::kTransferCap / 3;  // several lanes may be tested in one handshake

// Source runs into places, as ranges of the peer's pool file and of mine: {6 blocks, 2 blocks} into {3
// blocks, 5 blocks} are the parts 3, 3, 2.
std::vector<ReadPart> parts_of(std::span<const PoolRun> runs, std::span<const PoolRun> places,
                               std::span<std::byte> pool) {
  std::vector<ReadPart> parts;
  size_t r = 0;
  uint64_t r_at = 0;
  for (const PoolRun& place : places) {
    for (uint64_t at = 0; at < place.bytes;) {
      BATON_CHECK(r < runs.size(), "more room than was offered");
      const uint64_t n = std::min(place.bytes - at, runs[r].bytes - r_at);
      parts.push_back({kPoolStart + runs[r].offset + r_at, pool.subspan(place.offset + at, n)});
      at += n;
      r_at += n;
      if (r_at < runs[r].bytes) continue;
      ++r;
      r_at = 0;
    }
  }
  BATON_CHECK(r == runs.size(), "less room than was offered");
  return parts;
}

// A little less than what a group waits for its ranks to end a transfer.
constexpr auto kReadCap = timers::kTransferCap - timers::kQuarantineBeforeTeardown;

// Until the next read ends; a fabric may serve all that are under way at once, so that they end together.
Duration allowance(double rate) {
  if (rate <= 0) return kReadCap;
  return std::min<Duration>(timers::kTransferBase + from_seconds(10 * kPullWindow / rate), kReadCap);
}

struct alignas(64) Line {  // as pools are aligned
  std::byte bytes[64];
};

}  // namespace

struct FramedDataPlane::Pull {
  LinkId link = 0;
  WorkerRef peer;
  uint64_t number = 0;  // in its session
  OfferFrame offer;
  std::vector<PoolRun> places;
};

void FramedDataPlane::pull(Session& session, OfferFrame offer) {
  auto places = place(session, offer);
  if (!places.ok()) return answer(session, offer.cookie, places.status());
  for (const PoolRun& each : *places)
    BATON_CHECK(run_fits(each, pool_->bytes().size()), "landing outside the pool or not aligned");
  auto pull = std::make_shared<Pull>(
      Pull{session.link, session.peer, ++session.pulls_made, std::move(offer), *std::move(places)});
  if (session.ended) return pulled(*pull, absl::CancelledError("the peer is gone"));
  const uint64_t bytes = pull->offer.bytes;
  if (session.pull_rate.bytes_per_second <= 0)
    session.pull_rate.bytes_per_second = session.handshake->bytes_per_second();
  if (session.pulls.empty()) session.progress_deadline = now_ + allowance(session.pull_rate.bytes_per_second);
  session.pull_rate.offered(pull->number, bytes, clock_.now());
  session.pulls[pull->number] = {bytes, now_ + kReadCap};
  session.pulled_bytes += bytes;
  const auto parts = parts_of(pull->offer.runs, pull->places, pool_->bytes());
  reads_.start(session.handshake->peer_memory(), parts,
               [this, pull](const absl::Status& read) { pulled(*pull, read); });
}

// All of it has landed, or nothing more will.
void FramedDataPlane::pulled(Pull& pull, const absl::Status& read) {
  const auto it = sessions_.find(pull.link);
  if (it == sessions_.end()) {
    listener_->on_landed(pull.peer, as_bytes(pull.offer.header), absl::CancelledError("the peer is gone"))
        .IgnoreError();
    return;
  }
  Session& session = *it->second;
  session.pulls.erase(pull.number);
  session.pulled_bytes -= pull.offer.bytes;
  (void)session.pull_rate.answered(pull.number, clock_.now(), read.ok());
  session.progress_deadline = now_ + allowance(session.pull_rate.bytes_per_second);
  conclude(session, pull.offer, read.ok() ? verify(pull) : read);
  if (!read.ok()) end_session(session, std::string(read.message()));  // no lane any more
}

absl::Status FramedDataPlane::verify(const Pull& pull) const {
  if (!pull.offer.has_checksum) return absl::OkStatus();
  PieceChecksum sum;
  for (const PoolRun& place : pull.places) sum.add(pool_->bytes().subspan(place.offset, place.bytes));
  if (sum.value() == pull.offer.checksum) return absl::OkStatus();
  return absl::DataLossError("checksum: the bytes are not those that were offered");
}

struct FramedDataPlane::PullTest {
  LinkId link = 0;
  uint64_t number = 0;  // in its session
  PeerMemory* memory = nullptr;
  std::unique_ptr<Line[]> landing = std::make_unique<Line[]>(kProbeBytes / sizeof(Line));
  bool warm = false;  // the first read makes the connection, the second is timed
  Instant begin{};

  std::span<std::byte> bytes() { return {landing[0].bytes, kProbeBytes}; }
};

void FramedDataPlane::test_pull(Session& session, PeerMemory& memory) {
  session.test = ++session.pulls_made;
  session.test_deadline = now_ + kTestDeadline;
  auto test = std::make_shared<PullTest>();
  test->link = session.link;
  test->number = session.test;
  test->memory = &memory;
  read_test_data(std::move(test));
}

void FramedDataPlane::read_test_data(std::shared_ptr<PullTest> test) {
  const ReadPart all{kProbeStart, test->bytes()};
  PeerMemory& memory = *test->memory;
  test->begin = clock_.now();
  reads_.start(memory, {&all, 1}, [this, test](const absl::Status& read) { on_test_data(test, read); });
}

void FramedDataPlane::on_test_data(std::shared_ptr<PullTest> test, const absl::Status& read) {
  const auto it = sessions_.find(test->link);
  if (it == sessions_.end() || it->second->test != test->number)
    return;  // too late, its memory may be closed
  Session& session = *it->second;
  const double seconds = std::max(to_seconds(clock_.now() - test->begin), 1e-9);
  if (!read.ok()) return pull_tested(session, read);
  if (checksum_of(test->bytes()) != session.handshake->remote().probe_checksum)
    return pull_tested(session, absl::DataLossError("the test transfer came out wrong"));
  if (test->warm) return pull_tested(session, kProbeBytes / seconds);
  test->warm = true;
  std::ranges::fill(test->bytes(), std::byte{});
  read_test_data(std::move(test));
}

void FramedDataPlane::pull_tested(Session& session, const absl::StatusOr<double>& rate) {
  session.test = 0;
  session.test_deadline = kNever;
  if (session.ready()) return lane_tested(session, rate);
  session.handshake->pull_tested(rate);
  settle(session);
}

int FramedDataPlane::poll_pulls() {
  int done = 0;
  for (const auto& lane : pulls_.lanes) done += reads_.poll(*lane);
  std::vector<LinkId> late;
  for (const auto& [link, session] : sessions_)
    if (now_ >= session->test_deadline) late.push_back(link);
  for (const LinkId link : late)
    if (const auto it = sessions_.find(link); it != sessions_.end())
      pull_tested(*it->second, absl::DeadlineExceededError("the test transfer did not end"));
  return done;
}

void FramedDataPlane::wait(Duration timeout) {
  for (const auto& lane : pulls_.lanes)
    if (!lane->arm()) return;
  links_->wait(timeout);
}

}  // namespace baton::transport
