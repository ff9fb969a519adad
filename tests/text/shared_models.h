#pragma once

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "tests/support/temp_dir.h"
#include "text/model_text.h"

namespace baton::text {

// The models and goldens beside the checkout (BATON_SHARED overrides the place).
inline std::string shared_models() {
  if (const char* shared = std::getenv("BATON_SHARED")) return std::string(shared) + "/models";
  const char* source = std::getenv("BATON_SOURCE_DIR");
  return std::string(source != nullptr ? source : ".") + "/../shared/models";
}

inline std::string read_text(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return std::move(text).str();
}

inline boost::json::value read_json(const std::string& path) { return boost::json::parse(read_text(path)); }

inline std::vector<TokenId> ids_of(const boost::json::value& list) {
  std::vector<TokenId> ids;
  for (const auto& id : list.as_array()) ids.push_back(static_cast<TokenId>(id.as_int64()));
  return ids;
}

inline std::string str(const boost::json::value& value) { return std::string(value.as_string()); }

// A directory of this test's own, removed at the end.
class ScratchDirectory {
 public:
  const std::filesystem::path& path() const { return path_; }
  void write(const std::string& file, const std::string& text) const {
    std::ofstream(path_ / file, std::ios::binary) << text;
  }

 private:
  const support::TempDir directory_{"text"};
  const std::filesystem::path path_ = directory_.path();
};

}  // namespace baton::text

#define SKIP_WITHOUT_SHARED_MODELS()             \
  if (!std::filesystem::exists(shared_models())) \
  GTEST_SKIP() << "no shared models at " << shared_models() << " (BATON_SHARED)"
