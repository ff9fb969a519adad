#include "cli/cluster/home.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>

#include "tests/support/temp_dir.h"

namespace baton::cli {
namespace {

class HomeTest : public testing::Test {
 protected:
  void SetUp() override {
    ::setenv("BATON_HOME", folder_.c_str(), 1);
    home_ = Home::from_environment();
    ASSERT_TRUE(home_.make_directories().ok());
  }
  const support::TempDir directory_{"home"};
  const std::string folder_ = directory_.path();
  Home home_;
};

TEST_F(HomeTest, HoldsStateAndCacheUnderOneFolder) {
  EXPECT_EQ(home_.state, folder_ + "/state");
  EXPECT_EQ(home_.cache, folder_ + "/cache");
}

TEST_F(HomeTest, OneClusterAtATime) {
  {
    const auto first = HomeLock::take(home_);
    ASSERT_TRUE(first.ok());
    const auto second = HomeLock::take(home_);
    EXPECT_TRUE(absl::IsAlreadyExists(second.status()));
  }
  EXPECT_TRUE(HomeLock::take(home_).ok()) << "free again when its holder is gone";
}

TEST_F(HomeTest, ALockWhoseFileWasRemovedIsTakenAgain) {
  auto lock = HomeLock::take(home_);
  ASSERT_TRUE(lock.ok());
  EXPECT_TRUE(lock->stands(home_));
  std::filesystem::remove_all(home_.state);
  EXPECT_FALSE(lock->stands(home_));
  ASSERT_TRUE(home_.make_directories().ok());
  {
    const auto other = HomeLock::take(home_);
    ASSERT_TRUE(other.ok()) << "the folder is anybody's";
    EXPECT_FALSE(lock->stands(home_));
    EXPECT_TRUE(absl::IsAlreadyExists(lock->take_again(home_)));
  }
  ASSERT_TRUE(lock->take_again(home_).ok());
  EXPECT_TRUE(lock->stands(home_));
  EXPECT_TRUE(absl::IsAlreadyExists(HomeLock::take(home_).status()));
}

TEST_F(HomeTest, ClusterRecordComesBackAsWritten) {
  EXPECT_TRUE(absl::IsNotFound(ClusterRecord::read(home_).status()));
  const ClusterRecord written{.http_address = "127.0.0.1:8000",
                              .certificate = "/etc/tls.pem",
                              .processes = {{"supervisor", "supervisor", 12, ""}, {"w", "any", 13, "a:1"}}};
  ASSERT_TRUE(written.write(home_).ok());
  const auto read = ClusterRecord::read(home_);
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->http_address, written.http_address);
  ASSERT_EQ(read->processes.size(), 2u);
  EXPECT_EQ(read->processes[1].pid, 13);
  ASSERT_TRUE(write_file(home_.file(kLocalKeyFile), "secret", 0600).ok());
  const ServerPlace server = server_place(home_, *read);
  EXPECT_EQ(server.url(), "https://127.0.0.1:8000");
  EXPECT_EQ(server.certificate, "/etc/tls.pem");
  EXPECT_EQ(server.key, "secret");
  ClusterRecord::remove(home_);
  EXPECT_EQ(server_place(home_, *read).key, "") << "of a cluster that is gone";
}

TEST_F(HomeTest, AWorkersMachineHasNoServerToTalkTo) {
  ASSERT_TRUE((ClusterRecord{.processes = {{"supervisor", "supervisor", 12, ""}}}).write(home_).ok());
  EXPECT_TRUE(absl::IsNotFound(server_place("").status()));
  EXPECT_EQ(server_place("http://a:1")->address, "a:1");
}

TEST(ServerAddress, IsInWhatServePrints) {
  for (const char* url : {"127.0.0.1:28080", "http://127.0.0.1:28080", "http://127.0.0.1:28080/",
                          "http://127.0.0.1:28080/v1", "127.0.0.1:28080/v1/", "http://127.0.0.1:28080?a=b"})
    EXPECT_EQ(server_place(url)->address, "127.0.0.1:28080") << url;
  EXPECT_EQ(server_place("http://[::1]:80/v1")->address, "[::1]:80");
  EXPECT_EQ(server_place("http://door.example:8000/v1/models")->address, "door.example:8000");
  EXPECT_FALSE(server_place("http://door.example:8000/v1/models")->tls);
}

TEST(ServerAddress, TlsHasAPortOfItsOwnAndKeysComeFromTheEnvironment) {
  for (const auto& [url, address] : {std::pair{"https://door.example/v1", "door.example:443"},
                                     {"https://door.example:8443", "door.example:8443"},
                                     {"https://[::1]", "[::1]:443"},
                                     {"https://[::1]:8443/", "[::1]:8443"}}) {
    const auto place = server_place(url);
    ASSERT_TRUE(place.ok()) << place.status();
    EXPECT_EQ(place->address, address);
    EXPECT_TRUE(place->tls);
    EXPECT_EQ(place->key, "");
  }
  ::setenv("BATON_API_KEY", "k", 1);
  EXPECT_EQ(server_place("https://a")->key, "k");
  ::unsetenv("BATON_API_KEY");
}

TEST(ServerAddress, SaysWhatAUrlLacks) {
  for (const char* url : {"http://", "/v1", ":28080", "http://:28080/v1", "127.0.0.1", "http://127.0.0.1/v1",
                          "host:", "https://", "https://:443", "https://host:0", "host:0", "host:x",
                          "host:70000", "ftp://host:21", "http://a@host:80"}) {
    const auto refused = server_place(url).status();
    EXPECT_TRUE(absl::IsInvalidArgument(refused)) << url;
    EXPECT_NE(refused.message().find("want http://HOST:PORT"), std::string::npos) << refused;
  }
}

TEST_F(HomeTest, DamagedRecordsAreRefused) {
  for (const char* bad :
       {"", "{", "[]", "{}", R"({"processes":[]})", R"({"http_address":1,"processes":[{}]})",
        R"({"http_address":"a","processes":[{"name":"x","role":"y","pid":"z","address":""}]})"}) {
    ASSERT_TRUE(write_file(home_.file("cluster.json"), bad).ok());
    EXPECT_TRUE(absl::IsDataLoss(ClusterRecord::read(home_).status())) << bad;
  }
}

TEST_F(HomeTest, MissingModelSaysWhatToDo) {
  const auto none = resolve_model(home_, "default");
  EXPECT_TRUE(absl::IsNotFound(none.status()));
  EXPECT_NE(none.status().message().find("baton serve /path/to/model.gguf"), std::string::npos);
  EXPECT_TRUE(absl::IsNotFound(resolve_model(home_, "/no/such.gguf").status()));
}

TEST_F(HomeTest, ASecretIsItsOwnersFromTheStart) {
  const std::string file = folder_ + "/secret";
  ASSERT_TRUE(write_file(file, "old").ok());
  ASSERT_TRUE(write_file(file, "new", 0600).ok());
  struct stat st{};
  ASSERT_EQ(::stat(file.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
  EXPECT_EQ(read_file(file).value_or(""), "new");
}

TEST_F(HomeTest, AFullDiskIsAnErrorAndLeavesNothing) {
  const absl::Status s = write_file("/dev/full/x", "text");
  EXPECT_FALSE(s.ok());
  EXPECT_FALSE(write_file(folder_ + "/no/such/folder/x", "text").ok());
}

}  // namespace
}  // namespace baton::cli
