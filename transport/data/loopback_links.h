#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <variant>

#include "transport/data/links.h"

namespace baton::transport {

// Where the loopback links of one process find each other. Must outlive them.
// Thread: any.
class LoopbackHub {
 public:
  struct Arrival {
    enum class Kind : uint8_t { kAccepted, kFrame, kClosed };
    Kind kind = Kind::kFrame;
    LinkId link = 0;
    std::string head;
    std::string payload;
  };
  // The inbox of one LoopbackLinks; LinkIds are chosen by the hub and equal on both ends.
  struct Inbox {
    std::mutex mutex;
    std::condition_variable ready;
    std::deque<Arrival> arrivals;
    bool woken = false;
    void post(Arrival arrival);
  };

  std::string join(std::shared_ptr<Inbox> inbox);
  void leave(const std::string& address);
  std::shared_ptr<Inbox> find(const std::string& address) const;
  LinkId next_link();

 private:
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Inbox>> members_;
  uint64_t members_made_ = 0;
  LinkId links_made_ = 0;
};

// Links between data planes of one process: the twin of UcxLinks for tests. Frames are copied, so a sender's
// memory is free at once. Thread: progress of its owner; different owners may run on different threads.
class LoopbackLinks final : public Links {
 public:
  explicit LoopbackLinks(LoopbackHub& hub);
  ~LoopbackLinks() override;

  void set_listener(LinksListener& listener) override { listener_ = &listener; }
  std::string_view stream_lane() const override { return "loopback"; }
  size_t segment_bytes() const override { return 248 * 1024; }
  const std::string& address() const override { return address_; }
  absl::StatusOr<LinkId> connect(const std::string& address) override;
  void send(LinkId link, OutgoingFrame frame) override;
  void close(LinkId link) override;
  bool peer_closed(LinkId link) const override;
  int poll() override;
  void wait(Duration timeout) override;
  void wake() override;

 private:
  void accept(LinkId link, const std::string& peer_address);

  LoopbackHub& hub_;
  const std::shared_ptr<LoopbackHub::Inbox> inbox_;
  const std::string address_;
  LinksListener* listener_ = nullptr;
  std::map<LinkId, std::shared_ptr<LoopbackHub::Inbox>> peers_;
};

}  // namespace baton::transport
