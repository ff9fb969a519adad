#pragma once

#include <string>

#include "transport/collectives/form_group.h"

namespace baton {

// Some ranks of a group as a group of their own: a stage, or all of them again beside the first communicator.
// Example: of four ranks 0 and 1 call with {first 0, size 2}, ranks 2 and 3 with {first 2, size 2}.
struct GroupPart {
  std::string name;  // "stage-1": what is joined to the group's name
  int first = 0;     // rank of the whole group that is rank 0 of the part
  int size = 1;
  std::string host;  // Group::host of the whole group
};

// Every rank of `whole` calls this at once, each with its part; `shared` is what whole was formed with, with
// a new deadline. Errors: those of form_group(). Thread: the one of whole.
//
// Rank 0 of a part listens before it says where, and until the part has formed: nobody else on the machine
// gets the port in between.
absl::StatusOr<Group> form_part(Communicator& whole, const GroupPart& part, GroupOptions shared);

}  // namespace baton
