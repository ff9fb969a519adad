#include "base/log.h"

#include <gtest/gtest.h>

#include <unistd.h>
#include <cstdlib>

#include <filesystem>
#include <fstream>
#include <sstream>

namespace baton {
namespace {

TEST(Log, EscapesWhatWouldBreakALine) {
  EXPECT_EQ(json_escaped("a\"b\\c\n\x01"), "a\\\"b\\\\c\\u000a\\u0001");
  EXPECT_EQ(json_escaped("grün"), "grün");
  EXPECT_EQ(json_escaped("\xff\xc3"), "\\ufffd\\ufffd");
  EXPECT_EQ(json_escaped("\xed\xa0\x80"), "\\ufffd\\ufffd\\ufffd") << "a surrogate is no character";
}

TEST(Log, WritesOneJsonObjectALine) {
  const auto file = std::filesystem::temp_directory_path() / ("baton_log_test." + std::to_string(::getpid()));
  log_open({.role = "decode", .worker = "decode-0", .file = file.string()});
  log_info("hello\n{}", {{"n", 7}, {"ok", true}, {"text", "a\"b"}, {"x", 0.5}});
  log_debug("not shown");
  log_open({});
  std::ifstream in(file);
  std::string line, more;
  ASSERT_TRUE(std::getline(in, line));
  EXPECT_FALSE(std::getline(in, more));
  std::filesystem::remove(file);
  EXPECT_NE(
      line.find(
          R"("level":"info","role":"decode","worker":"decode-0","msg":"hello\u000a{}","n":7,"ok":true,"text":"a\"b","x":0.5})"),
      std::string::npos)
      << line;
}

TEST(Log, AFileThatWasMovedAwayOrRemovedIsBegunAnew) {
  namespace fs = std::filesystem;
  const fs::path folder = fs::temp_directory_path() / ("baton_log_test.d." + std::to_string(::getpid()));
  const fs::path file = folder / "x.log", rotated = folder / "x.log.1";
  fs::create_directories(folder);
  const auto text = [](const fs::path& path) {
    std::ostringstream out;
    out << std::ifstream(path).rdbuf();
    return out.str();
  };
  log_open({.role = "any", .file = file.string()});
  log_info("first");
  fs::rename(file, rotated);
  log_info("second");
  EXPECT_TRUE(text(rotated).contains("first"));
  EXPECT_TRUE(text(file).contains("second"));
  EXPECT_FALSE(text(rotated).contains("second"));
  fs::remove_all(folder);
  log_info("nowhere to go, and nobody dies of it");
  fs::create_directories(folder);
  log_info("third");
  EXPECT_TRUE(text(file).contains("third"));
  log_open({});
  fs::remove_all(folder);
}

}  // namespace
}  // namespace baton
