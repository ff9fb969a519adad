#include "base/log.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
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

// A reader that stops must not stop who logs: with a write that waits this never ends.
TEST(Log, AReaderThatStopsCostsLinesAndIsTold) {
  int pipe[2];
  ASSERT_EQ(::pipe2(pipe, O_CLOEXEC), 0);
  ASSERT_GT(::fcntl(pipe[1], F_SETPIPE_SZ, 16384), 0);
  ASSERT_EQ(::fcntl(pipe[0], F_SETFL, O_NONBLOCK), 0);
  const int own = ::dup(STDERR_FILENO);
  ::dup2(pipe[1], STDERR_FILENO);
  const auto read_all = [&] {
    std::string out;
    char bytes[4096];
    for (ssize_t n = 0; (n = ::read(pipe[0], bytes, sizeof bytes)) > 0;)
      out.append(bytes, static_cast<size_t>(n));
    return out;
  };
  log_open({.role = "coordinator"});
  constexpr int kLines = 100;
  for (int i = 0; i < kLines; ++i) log_info("a line", {{"text", std::string(200, 'x')}});
  const std::string before = read_all();
  log_info("again");
  log_info(std::string(100'000, 'y'));  // longer than the pipe
  const std::string after = read_all();
  log_info("last");
  const std::string last = read_all();
  ::dup2(own, STDERR_FILENO);
  for (const int fd : {own, pipe[0], pipe[1]}) ::close(fd);
  log_open({});

  const auto lines = std::count(before.begin(), before.end(), '\n');
  EXPECT_GT(lines, 0);
  EXPECT_TRUE(before.ends_with('\n')) << "whole lines";
  EXPECT_TRUE(after.contains(R"("level":"warning")") &&
              after.contains("\"lines\":" + std::to_string(kLines - lines) + "}\n"))
      << after.substr(0, 300) << " behind " << lines;
  EXPECT_TRUE(after.contains(R"("msg":"again")"));
  EXPECT_TRUE(last.contains("\"lines\":1}\n") && last.contains(R"("msg":"last")")) << last;
}

}  // namespace
}  // namespace baton
