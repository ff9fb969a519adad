#pragma once

#include "transport/data/byte_codec.h"
#include "transport/messages/messages.h"
#include "worker/kv_transfer/kv_part.h"

// How values that several KV messages carry are written and read (byte_codec.h).
namespace baton::worker {

inline constexpr size_t kMaxLogprobs = 4096;
inline constexpr size_t kMaxRefName = 256;

template <class Codec, class P>
  requires std::is_same_v<std::remove_const_t<P>, KvPart>
void describe(Codec& c, P& part) {
  c.number(part.first_layer);
  c.number(part.end_layer);
  c.number(part.first_head);
  c.number(part.end_head);
}

template <class Codec, class R>
  requires std::is_same_v<std::remove_const_t<R>, WorkerRef>
void describe(Codec& c, R& ref) {
  c.text(ref.name, kMaxRefName);
  c.id(ref.incarnation);
}

template <class Codec, class T>
  requires std::is_same_v<std::remove_const_t<T>, TokenOutput>
void describe(Codec& c, T& token) {
  c.number(token.token);
  c.number(token.logprob);
  c.list(token.top, kMaxLogprobs, [](auto& each, auto& top) {
    each.number(top.token);
    each.number(top.logprob);
    each.number(top.rank);
  });
}

template <class Codec, class D>
  requires std::is_same_v<std::remove_const_t<D>, Duration>
void describe(Codec& c, D& duration) {
  auto ticks = duration.count();
  c.number(ticks);
  if constexpr (!std::is_const_v<D>) duration = Duration(ticks);
}

}  // namespace baton::worker
