#pragma once

#include <fstream>
#include <sstream>
#include <string>

#include "tests/support/temp_dir.h"

namespace baton::testing {

using support::TempDir;

inline void write_file(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}
inline std::string read_file(const std::string& path) {
  std::ostringstream out;
  out << std::ifstream(path, std::ios::binary).rdbuf();
  return out.str();
}

}  // namespace baton::testing
