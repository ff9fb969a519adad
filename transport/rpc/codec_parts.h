#pragma once

#include "transport/rpc/codec.h"
#include "transport/rpc/field_check.h"
#include "wire.pb.h"

// The pieces that both directions of the codec use.
namespace baton::transport {

std::string cut_text(const std::string& text);
// A time that came out negative (a deadline that has passed) is none left.
inline int64_t nanoseconds(Duration d) { return d.count() > 0 ? d.count() : 0; }

WorkerRef decode_ref(const wire::WorkerRef& from, FieldCheck& check);
WorkerDescription decode_description(const wire::WorkerDescription& from, FieldCheck& check);

template <class Struct>
absl::StatusOr<Struct> checked(Struct value, const FieldCheck& check) {
  if (!check.ok()) return check.status();
  return value;
}

}  // namespace baton::transport
