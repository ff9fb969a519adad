#include "transport/data/ucx_get_lane.h"

#include <chrono>
#include <cstring>
#include <utility>

#include "base/cat.h"
#include "base/check.h"
#include "transport/data/byte_codec.h"
#include "transport/data/get_ticket.h"
#include "transport/data/ucx_start.h"

namespace baton::transport {
namespace {

constexpr auto kCloseDeadline = std::chrono::seconds(1);
constexpr int kProgressAtOnce = 64;

// UCX reads address and key without knowing where they end.
template <size_t kMax>
std::vector<std::byte> padded(const std::string& text) {
  std::vector<std::byte> out(2 * kMax);
  std::memcpy(out.data(), text.data(), std::min(text.size(), kMax));
  return out;
}

}  // namespace

struct UcxGetLane::Peer {
  ucp_ep_h endpoint = nullptr;
  ucp_rkey_h key = nullptr;
  uint64_t base = 0;
  size_t reads = 0;  // under way
  bool closing = false;
  void* close_request = nullptr;
};

class UcxGetLane::Memory final : public PeerMemory {
 public:
  Memory(UcxGetLane& lane, Peer& peer, uint64_t bytes) : lane_(lane), peer_(peer), bytes_(bytes) {}
  ~Memory() override { lane_.close(peer_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  uint64_t bytes() const override { return bytes_; }
  void read(uint64_t offset, std::span<std::byte> to, ReadId id) override {
    lane_.read(peer_, peer_.base + offset, to, id);
  }

 private:
  UcxGetLane& lane_;
  Peer& peer_;
  const uint64_t bytes_;
};

// ---- start and stop
// -------------------------------------------------------------------------------------------

absl::StatusOr<std::unique_ptr<UcxGetLane>> UcxGetLane::create(const Options& options,
                                                               std::span<std::byte> file) {
  std::unique_ptr<UcxGetLane> lane(new UcxGetLane);
  RETURN_IF_ERROR(lane->start(options, file));
  return lane;
}

absl::Status UcxGetLane::start(const Options& options, std::span<std::byte> file) {
  ASSIGN_OR_RETURN(const std::string interface, interface_of(options.host));
  const std::vector<std::string> devices = options.emulate ? std::vector{interface} : rdma_devices(interface);
  if (devices.empty())
    return absl::UnavailableError(
        cat("get: interface ", interface, " (address ", options.host, ") has no RDMA device"));
  ASSIGN_OR_RETURN(context_, start_ucx({.features = UCP_FEATURE_RMA | UCP_FEATURE_WAKEUP,
                                        .transports = options.emulate ? "tcp,cma" : "rc",
                                        .devices = join(devices, ",")}));
  ASSIGN_OR_RETURN(worker_, start_ucx_worker(context_));
  const ucs_status_t status = ucp_worker_get_efd(worker_, &events_);
  if (status != UCS_OK) return ucx_failed("events", status);
  return register_pool(file);
}

absl::Status UcxGetLane::register_pool(std::span<std::byte> file) {
  ucp_mem_map_params_t memory{};
  memory.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH;
  memory.address = file.data();
  memory.length = file.size();
  ucs_status_t status = ucp_mem_map(context_, &memory, &pool_);
  if (status != UCS_OK) return ucx_failed(cat("registration of ", file.size() >> 20, " MiB"), status);
  GetTicket ticket{.base = reinterpret_cast<uint64_t>(file.data()), .bytes = file.size()};
  void* key = nullptr;
  size_t key_bytes = 0;
  status = ucp_rkey_pack(context_, pool_, &key, &key_bytes);
  if (status != UCS_OK) return ucx_failed("key of the pool", status);
  ticket.key.assign(static_cast<const char*>(key), key_bytes);
  ucp_rkey_buffer_release(key);
  ucp_address_t* address = nullptr;
  size_t address_bytes = 0;
  status = ucp_worker_get_address(worker_, &address, &address_bytes);
  if (status != UCS_OK) return ucx_failed("address", status);
  ticket.address.assign(reinterpret_cast<const char*>(address), address_bytes);
  ucp_worker_release_address(worker_, address);
  if (ticket.key.size() > kMaxUcxKey || ticket.address.size() > kMaxUcxAddress)
    return absl::UnavailableError(
        "UCX: address or key too long for a hello; name fewer devices in UCX_NET_DEVICES");
  ticket_ = encode_ticket(ticket);
  return absl::OkStatus();
}

UcxGetLane::~UcxGetLane() {
  for (const auto& peer : peers_) close(*peer);
  const auto deadline = std::chrono::steady_clock::now() + kCloseDeadline;
  while (worker_ && !peers_.empty() && std::chrono::steady_clock::now() < deadline) {
    ucp_worker_progress(worker_);
    reap_closed();
  }
  if (worker_) ucp_worker_destroy(worker_);  // with every endpoint: nobody writes here after this
  for (const auto& peer : peers_)
    if (peer->key) ucp_rkey_destroy(peer->key);
  if (pool_) ucp_mem_unmap(context_, pool_);
  if (context_) ucp_cleanup(context_);
}

// ---- peers
// ----------------------------------------------------------------------------------------------------

absl::StatusOr<std::unique_ptr<PeerMemory>> UcxGetLane::open(const std::string& text) {
  ASSIGN_OR_RETURN(const GetTicket ticket, decode_ticket(as_bytes(text)));
  const std::vector<std::byte> address = padded<kMaxUcxAddress>(ticket.address);
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLER |
                      UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE;
  params.address = reinterpret_cast<const ucp_address_t*>(address.data());
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler.cb = &UcxGetLane::on_error;
  params.err_handler.arg = this;
  auto peer = std::make_unique<Peer>();
  ucs_status_t status = ucp_ep_create(worker_, &params, &peer->endpoint);
  if (status != UCS_OK) return ucx_failed("endpoint", status);
  const std::vector<std::byte> key = padded<kMaxUcxKey>(ticket.key);
  status = ucp_ep_rkey_unpack(peer->endpoint, key.data(), &peer->key);
  peer->base = ticket.base;
  peers_.push_back(std::move(peer));
  if (status != UCS_OK) {
    close(*peers_.back());
    return ucx_failed("the peer's key", status);
  }
  return std::make_unique<Memory>(*this, *peers_.back(), ticket.bytes);
}

// Its reads end with this error, too; there is nothing else to do here.
void UcxGetLane::on_error(void*, ucp_ep_h, ucs_status_t) {}

// Forced: what is under way is dropped, and told as ended when it has.
void UcxGetLane::close(Peer& peer) {
  if (std::exchange(peer.closing, true)) return;
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  void* request = ucp_ep_close_nbx(peer.endpoint, &param);
  if (UCS_PTR_IS_PTR(request)) peer.close_request = request;
}

void UcxGetLane::reap_closed() {
  std::erase_if(peers_, [](const std::unique_ptr<Peer>& peer) {
    if (!peer->closing || peer->reads > 0) return false;
    if (peer->close_request) {
      if (ucp_request_check_status(peer->close_request) == UCS_INPROGRESS) return false;
      ucp_request_free(peer->close_request);
    }
    if (peer->key) ucp_rkey_destroy(peer->key);
    return true;
  });
}

// ---- reads
// ----------------------------------------------------------------------------------------------------

void UcxGetLane::read(Peer& peer, uint64_t from, std::span<std::byte> to, ReadId id) {
  auto owned = std::make_unique<Reading>(Reading{.lane = this, .peer = &peer, .id = id});
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.cb.send = &UcxGetLane::on_read;
  param.user_data = owned.get();
  ++peer.reads;
  const ucs_status_ptr_t request = ucp_get_nbx(peer.endpoint, to.data(), to.size(), from, peer.key, &param);
  if (UCS_PTR_IS_PTR(request)) {
    Reading* reading = owned.get();
    reading_[reading] = std::move(owned);
  } else {
    end_read(peer, id, UCS_PTR_STATUS(request));
  }
}

void UcxGetLane::on_read(void* request, ucs_status_t status, void* user_data) {
  auto* reading = static_cast<Reading*>(user_data);
  UcxGetLane* lane = reading->lane;
  lane->end_read(*reading->peer, reading->id, status);
  lane->reading_.erase(reading);
  ucp_request_free(request);
}

void UcxGetLane::end_read(Peer& peer, ReadId id, ucs_status_t status) {
  --peer.reads;
  ended_.push_back({id, status == UCS_OK ? absl::OkStatus() : ucx_failed("get", status)});
}

int UcxGetLane::poll(std::vector<EndedRead>& ended) {
  int done = 0;
  while (done < kProgressAtOnce && ucp_worker_progress(worker_) != 0) ++done;
  ended.insert(ended.end(), ended_.begin(), ended_.end());
  ended_.clear();
  reap_closed();
  return done;
}

bool UcxGetLane::arm() { return ended_.empty() && ucp_worker_arm(worker_) == UCS_OK; }

}  // namespace baton::transport
