#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "transport/data/lanes.h"
#include "transport/messages/messages.h"
#include "transport/tls/tls_stream.h"

namespace baton::transport {

// Who I am to other workers' data planes. Two planes pair only when everything but `self` and `host_id` is
// equal.
struct DataIdentity {
  uint32_t protocol_version = kProtocolVersion;
  WorkerRef self;
  std::string host_id;
  std::string kv_layout_hash;
  std::string model_hash;
  std::string numerics_id;
};

// Who may connect to me: workers that I was told of by connect() or let_in(), or whoever fits.
enum class Callers : uint8_t { kNamed, kAnybody };

struct DataPlaneOptions {
  DataIdentity identity;
  Callers callers = Callers::kNamed;
  std::string listen_host = "127.0.0.1";  // numeric address of one interface
  uint16_t listen_port = 0;               // 0 = any
  AllowedLanes lanes;
  std::optional<StreamSecurity> tls;  // of lane `socket`, then `socket-tls`; also carries the words of others
  size_t pool_bytes = 0;
  bool prefault_pool = true;  // take the pool's memory at start rather than at first use
  bool checksum = true;       // of every piece; both sides must agree; `am` and `get` do not go without
};

// A run of bytes inside a pool. Multiples of kPoolAlignment.
struct PoolRun {
  uint64_t offset = 0;
  uint64_t bytes = 0;
  friend bool operator==(const PoolRun&, const PoolRun&) = default;
};
inline constexpr size_t kPoolAlignment = 64;
inline constexpr size_t kMaxRuns = 512;          // of one piece
inline constexpr size_t kMaxPieceHeader = 3072;  // bytes
inline constexpr size_t kMaxMessage = 1 << 20;   // bytes

// Bytes on offer. `cookie` names the piece in on_answer(); `header` is for the receiver's on_offer().
// The bytes must not change until on_answer() or until the peer is gone.
struct PieceOffer {
  uint64_t cookie = 0;
  std::span<const std::byte> header;
  std::span<const PoolRun> runs;
};

struct PeerEvent {
  enum class Kind : uint8_t { kConnected, kRefused, kDown };
  Kind kind = Kind::kConnected;
  WorkerRef peer;
  std::string lane;             // name, when connected
  double bytes_per_second = 0;  // of the verified test transfer towards me
  Duration latency{};           // one way, half a round trip
  // Why refused or down; when connected, why a faster lane was not taken; when told again about a connected
  // peer whose transfers had become slow, what a new test transfer gave.
  std::string detail;
};

// What the owner of a data plane is told, on the progress thread. It may call send, offer, connect, fence
// inside.
class DataPlaneListener {
 public:
  virtual ~DataPlaneListener() = default;
  virtual void on_peer(const PeerEvent& event) = 0;
  virtual void on_message(const WorkerRef& from, std::span<const std::byte> message) = 0;
  // A peer offers `bytes`. Where in my pool they may go (total = bytes), or why not. On lane `socket` the
  // bytes arrive little by little: other calls come before on_landed(), and still_wanted() before each part
  // of them.
  virtual absl::StatusOr<std::vector<PoolRun>> on_offer(const WorkerRef& from,
                                                        std::span<const std::byte> header,
                                                        uint64_t bytes) = 0;
  // An accepted offer may still be written into the places it was given. After a no nothing is written there,
  // unless the peer's offers land by themselves.
  virtual bool still_wanted(const WorkerRef& from, std::span<const std::byte> header) = 0;
  // The bytes of an accepted offer were moved and verified (`moved` ok) or not. What to answer the sender.
  virtual absl::Status on_landed(const WorkerRef& from, std::span<const std::byte> header,
                                 const absl::Status& moved) = 0;
  // The receiver's answer to my offer. Never called for a peer that went down.
  virtual void on_answer(const WorkerRef& peer, uint64_t cookie, const absl::Status& verdict) = 0;
};

struct DataPlaneCounters {
  uint64_t bytes_landed = 0;
  uint64_t pieces_landed = 0;
  uint64_t pieces_refused = 0;  // by on_offer, or out of bounds
  uint64_t checksum_mismatches = 0;
  uint64_t malformed_frames = 0;
  uint64_t handshakes_refused = 0;
  uint64_t stale_incarnations = 0;  // of handshakes and connects
  uint64_t unknown_answers = 0;
  uint64_t peers_lost = 0;
  uint64_t lanes_tested_again = 0;  // slow, asked about, right
  uint64_t lanes_failed = 0;        // wrong when tested again
};

// Moves KV bytes between workers. The sender offers runs of its pool; the receiver picks the place in its own
// pool, moves the bytes, verifies the checksum, answers. Nobody outside this process ever writes the pool, so
// an aborted transfer is over when the receiver says so (design I2, section 5). Small messages between the
// same two peers keep their order; offers and messages do not wait for each other. Path: step 8, from the
// prefill worker's kv_transfer, to the decode worker's. Thread: progress, except wake() and counters(): any.
// create() may run on another thread before. Owns: the pool, the connections. Errors: a lost peer is an
// event; a forged or broken frame is counted and ends that connection only.
class DataPlane {
 public:
  virtual ~DataPlane() = default;

  virtual std::span<std::byte> pool() = 0;         // page aligned
  virtual const std::string& address() const = 0;  // for WorkerDescription::data_address
  virtual void set_listener(DataPlaneListener& listener) = 0;

  // Starts the handshake and the test transfers; on_peer() tells how it ended. Already connected: told again.
  // kFailedPrecondition: that life of the peer is over.
  virtual absl::Status connect(const WorkerDescription& peer, Instant now) = 0;
  // That life of the peer may connect to me. Who does so before it is named waits, for 5 s at most: two peers
  // are told of each other at different moments.
  virtual void let_in(const WorkerRef& peer) = 0;
  // That life of the peer (and earlier ones) is over for ever; its connection is destroyed.
  virtual void fence(const WorkerRef& peer) = 0;
  // Ends the connection, as if the peer were lost; connect() may make another.
  virtual void disconnect(const WorkerRef& peer, const std::string& reason) = 0;
  // Something of the peer's is overdue: it is asked for a sign of life, and is lost when nothing at all comes
  // for timers::kQuarantineBeforeTeardown before the answer.
  virtual void doubt(const WorkerRef& peer) = 0;

  virtual absl::Status send(const WorkerRef& peer, std::span<const std::byte> message) = 0;
  virtual absl::Status offer(const WorkerRef& peer, const PieceOffer& piece) = 0;

  virtual bool connected(const WorkerRef& peer) const = 0;
  // Not connected, or the peer has closed its end, whether do_work() has come to that yet or not: what was
  // read out of its memory since may be anything. UCX's links cannot tell before do_work().
  virtual bool hung_up(const WorkerRef& peer) const = 0;
  virtual std::string lane(const WorkerRef& peer) const = 0;         // empty when not connected
  virtual double bytes_per_second(const WorkerRef& peer) const = 0;  // measured all the time
  virtual size_t max_piece_bytes(const WorkerRef& peer) const = 0;
  // What this peer offers lands without this thread (a pull lane): places are in use until on_landed(), which
  // comes for each accepted offer, after still_wanted() said no and after the peer went down, too.
  virtual bool lands_by_itself(const WorkerRef& peer) const = 0;

  // Does what there is to do; returns how much that was. 0 = wait() may be called.
  virtual int do_work(Instant now) = 0;
  virtual Instant next_deadline() const = 0;
  // Until traffic, wake(), or `timeout`. Uses no CPU meanwhile.
  virtual void wait(Duration timeout) = 0;
  virtual void wake() = 0;
  virtual DataPlaneCounters counters() const = 0;
};

}  // namespace baton::transport
