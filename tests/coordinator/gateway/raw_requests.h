#pragma once

#include <string>
#include <vector>

namespace baton::coordinator {

// Raw bytes as a client may send them, and what the strict check must say: per request in the bytes one
// verdict, 200 = a whole clean request, 4xx = refused with that status (nothing follows it), 0 = more bytes
// are needed.
struct RawRequest {
  std::string name;
  std::string bytes;
  std::vector<int> verdicts;
};

std::vector<RawRequest> raw_requests();

}  // namespace baton::coordinator
