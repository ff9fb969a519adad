#include "transport/data/loopback_links.h"

#include <algorithm>
#include <utility>

#include "base/cat.h"

namespace baton::transport {

using Arrival = LoopbackHub::Arrival;

void LoopbackHub::Inbox::post(Arrival arrival) {
  {
    std::lock_guard lock(mutex);
    arrivals.push_back(std::move(arrival));
  }
  ready.notify_one();
}

std::string LoopbackHub::join(std::shared_ptr<Inbox> inbox) {
  std::lock_guard lock(mutex_);
  const std::string address = cat("loopback:", ++members_made_);
  members_[address] = std::move(inbox);
  return address;
}

void LoopbackHub::leave(const std::string& address) {
  std::lock_guard lock(mutex_);
  members_.erase(address);
}

std::shared_ptr<LoopbackHub::Inbox> LoopbackHub::find(const std::string& address) const {
  std::lock_guard lock(mutex_);
  const auto it = members_.find(address);
  return it == members_.end() ? nullptr : it->second;
}

LinkId LoopbackHub::next_link() {
  std::lock_guard lock(mutex_);
  return ++links_made_;
}

LoopbackLinks::LoopbackLinks(LoopbackHub& hub)
    : hub_(hub), inbox_(std::make_shared<LoopbackHub::Inbox>()), address_(hub.join(inbox_)) {}

LoopbackLinks::~LoopbackLinks() {
  hub_.leave(address_);
  while (!peers_.empty()) close(peers_.begin()->first);
}

absl::StatusOr<LinkId> LoopbackLinks::connect(const std::string& address) {
  auto peer = hub_.find(address);
  if (!peer) return absl::UnavailableError(cat("nobody at ", address));
  const LinkId link = hub_.next_link();
  peers_[link] = peer;
  peer->post({.kind = Arrival::Kind::kAccepted, .link = link, .head = address_});
  return link;
}

void LoopbackLinks::send(LinkId link, OutgoingFrame frame) {
  const auto it = peers_.find(link);
  if (it == peers_.end()) return;
  for (const auto part : frame.payload)
    frame.body.append(reinterpret_cast<const char*>(part.data()), part.size());
  it->second->post({.link = link, .head = std::move(frame.head), .payload = std::move(frame.body)});
}

void LoopbackLinks::close(LinkId link) {
  const auto it = peers_.find(link);
  if (it == peers_.end()) return;
  it->second->post({.kind = Arrival::Kind::kClosed, .link = link});
  peers_.erase(it);
}

bool LoopbackLinks::peer_closed(LinkId link) const {
  std::lock_guard lock(inbox_->mutex);
  return std::ranges::any_of(inbox_->arrivals, [link](const Arrival& arrival) {
    return arrival.kind == Arrival::Kind::kClosed && arrival.link == link;
  });
}

void LoopbackLinks::accept(LinkId link, const std::string& peer_address) {
  auto peer = hub_.find(peer_address);
  if (!peer) return;
  peers_[link] = std::move(peer);
  listener_->on_accepted(link);
}

int LoopbackLinks::poll() {
  std::deque<Arrival> arrivals;
  {
    std::lock_guard lock(inbox_->mutex);
    arrivals.swap(inbox_->arrivals);
  }
  for (const Arrival& arrival : arrivals) {
    if (arrival.kind == Arrival::Kind::kAccepted) {
      accept(arrival.link, arrival.head);
    } else if (!peers_.contains(arrival.link)) {
      continue;  // closed here meanwhile
    } else if (arrival.kind == Arrival::Kind::kClosed) {
      peers_.erase(arrival.link);
      listener_->on_closed(arrival.link, "closed by the peer");
    } else {
      listener_->on_frame(arrival.link, std::as_bytes(std::span(arrival.head)),
                          std::as_bytes(std::span(arrival.payload)));
    }
  }
  return static_cast<int>(arrivals.size());
}

void LoopbackLinks::wait(Duration timeout) {
  std::unique_lock lock(inbox_->mutex);
  const auto ready = [&] { return inbox_->woken || !inbox_->arrivals.empty(); };
  if (timeout == Duration::max()) {
    inbox_->ready.wait(lock, ready);
  } else {
    inbox_->ready.wait_for(lock, timeout, ready);
  }
  inbox_->woken = false;
}

void LoopbackLinks::wake() {
  {
    std::lock_guard lock(inbox_->mutex);
    inbox_->woken = true;
  }
  inbox_->ready.notify_one();
}

}  // namespace baton::transport
