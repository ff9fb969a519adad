#include "transport/collectives/form_part.h"

#include <array>
#include <utility>
#include <vector>

#include "base/cat.h"
#include "transport/collectives/group_door.h"
#include "transport/collectives/stream_socket.h"

namespace baton {
namespace {

using Address = std::array<char, 128>;  // text, then zeros

struct MeetingPlace {
  OwnedFd listener;
  std::string address;
};

absl::StatusOr<MeetingPlace> meeting_place(const std::string& host) {
  MeetingPlace place;
  if (host.empty()) {
    ASSIGN_OR_RETURN(const std::string token, group_token());
    place.address = cat("unix:@baton-part-", token);
  } else {
    place.address = host_and_port(host, 0);
  }
  if (place.address.size() + 8 > Address().size())  // and a port
    return absl::InvalidArgumentError(cat("the address ", host, " is too long"));
  ASSIGN_OR_RETURN(place.listener, listen_at(place.address));
  if (!host.empty()) place.address = host_and_port(host, local_port(place.listener.get()));
  return place;
}

}  // namespace

absl::StatusOr<Group> form_part(Communicator& whole, const GroupPart& part, GroupOptions shared) {
  MeetingPlace place;
  if (whole.rank() == part.first && part.size > 1) {
    ASSIGN_OR_RETURN(place, meeting_place(part.host));
  }
  Address mine{};
  place.address.copy(mine.data(), mine.size() - 1);
  std::vector<Address> all(static_cast<size_t>(whole.size()));
  RETURN_IF_ERROR(whole.all_gather(std::as_bytes(std::span(mine)), std::as_writable_bytes(std::span(all)),
                                   shared.deadline));
  all[part.first].back() = 0;
  shared.group += cat("/", part.name);
  shared.rank = whole.rank() - part.first;
  shared.size = part.size;
  shared.rendezvous = all[part.first].data();
  shared.listener = place.listener.valid() ? &place.listener : nullptr;
  shared.within = &whole;
  return form_group(shared);
}

}  // namespace baton
