#pragma once

#include "wire.pb.h"

namespace baton::transport {

// Two step reports that wait behind a slow write become one message: whoever is behind catches up by larger
// messages, not by more of them. `next` is added to `last`; when it says more of a sequence that `last` ends
// with, its tokens are appended there. False, and nothing changed, when they are no step reports or one
// report could not say the same: of a report evictions count before what was stored, so `next` may have none.
//
// Example: last {a: 7}, {b: 3, finished} and next {a: 8, 9} give {a: 7, 8, 9}, {b: 3, finished}.
// Thread: any. Of step number and load those of `next` remain.
bool merge_reports(wire::WorkerMessage& last, wire::WorkerMessage& next);

}  // namespace baton::transport
