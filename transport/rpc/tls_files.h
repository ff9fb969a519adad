#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "transport/rpc/security.h"

namespace baton::transport {

enum class TlsFile : uint8_t { kCa, kCertificate, kKey };

struct TlsMistake {
  TlsFile file = TlsFile::kCa;
  std::string text;  // starts with the file's path; says what is wanted
};

// What is wrong with the files of one end, found before anybody connects: a file that is missing or no PEM, a
// key of another certificate, a certificate that is expired, not valid yet, of another CA, or without the
// name that the other end asks for. Empty: none of it. Without a CA or a name those are not looked at.
// `unix_time`: now, in seconds.
std::vector<TlsMistake> check_tls_files(const TlsFiles& files, const std::string& own_name,
                                        int64_t unix_time);
// When the first certificate of a file ends, in unix time; nothing for a file that is none.
std::optional<int64_t> certificate_end(const std::string& file);

}  // namespace baton::transport
