#include "transport/data/get_ticket.h"

#include "transport/data/byte_codec.h"
#include "transport/data/peer_pool.h"

namespace baton::transport {
namespace {

constexpr uint32_t kMagic = 0x31475442;  // "BTG1"
constexpr uint64_t kPage = 4096;

uint64_t sum_of(std::string_view text) {  // FNV-1a
  uint64_t sum = 0xcbf29ce484222325;
  for (const char c : text) sum = (sum ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return sum;
}

template <class Codec, class Ticket>
void describe(Codec& c, Ticket& t) {
  c.number(t.base);
  c.number(t.bytes);
  c.text(t.address, kMaxUcxAddress);
  c.text(t.key, kMaxUcxKey);
}

}  // namespace

std::string encode_ticket(const GetTicket& ticket) {
  ByteWriter body;
  describe(body, ticket);
  const std::string text = body.take();
  ByteWriter head;
  head.number(kMagic);
  head.number(sum_of(text));
  return head.take() + text;
}

absl::StatusOr<GetTicket> decode_ticket(std::span<const std::byte> bytes) {
  ByteReader reader(bytes);
  uint32_t magic = 0;
  uint64_t sum = 0;
  reader.number(magic);
  reader.number(sum);
  const std::span<const std::byte> body = reader.rest();
  GetTicket ticket;
  describe(reader, ticket);
  if (magic != kMagic || !reader.complete() ||
      sum != sum_of({reinterpret_cast<const char*>(body.data()), body.size()}))
    return absl::InvalidArgumentError("ticket: damaged or cut");
  if (ticket.base == 0 || ticket.base % kPage != 0 || ticket.bytes <= kPoolStart ||
      ticket.bytes > kPoolStart + kMaxPoolBytes || ticket.base > UINT64_MAX - ticket.bytes)
    return absl::InvalidArgumentError("ticket: impossible memory");
  if (ticket.address.empty() || ticket.key.empty())
    return absl::InvalidArgumentError("ticket: no address or key");
  return ticket;
}

}  // namespace baton::transport
