#include "cli/cluster/rank_place.h"

#include <gmock/gmock.h>

#include <map>

namespace baton::cli {
namespace {

using ::testing::HasSubstr;
using Variables = std::map<std::string, std::string>;

absl::StatusOr<RankPlace> find(const RankQuestion& q, const Variables& variables) {
  return find_rank(q, [&](const char* name) {
    const auto found = variables.find(name);
    return found == variables.end() ? std::string() : found->second;
  });
}

const Variables kLws{
    {"LWS_WORKER_INDEX", "1"}, {"LWS_GROUP_SIZE", "2"}, {"LWS_LEADER_ADDRESS", "chat-0.chat"}};
const Variables kSlurm{{"SLURM_PROCID", "3"}, {"SLURM_NTASKS", "4"}, {"SLURM_JOB_NODELIST", "node[07-08]"}};
const Variables kOpenMpi{{"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "2"}};

TEST(RankPlace, OneRankAsksNobody) {
  const auto place = find({.ranks = 1}, kLws);
  ASSERT_TRUE(place.ok()) << place.status();
  EXPECT_EQ(place->rank, 0);
  EXPECT_EQ(place->source, "one rank");
}

TEST(RankPlace, FlagsComeFirst) {
  const auto place = find({.ranks = 2, .flag_rank = 0, .flag_rendezvous = "unix:@x"}, kLws);
  ASSERT_TRUE(place.ok()) << place.status();
  EXPECT_EQ(place->rank, 0);
  EXPECT_EQ(place->rendezvous, "unix:@x");
  EXPECT_EQ(place->source, "flags");
}

TEST(RankPlace, LeaderWorkerSetBeforeSlurmBeforeMpi) {
  Variables all = kOpenMpi;
  all.insert(kSlurm.begin(), kSlurm.end());
  all.insert(kLws.begin(), kLws.end());
  auto place = find({.ranks = 2, .port = 7100}, all);
  ASSERT_TRUE(place.ok()) << place.status();
  EXPECT_EQ(place->source, "LeaderWorkerSet");
  EXPECT_EQ(place->rank, 1);
  EXPECT_EQ(place->rendezvous, "chat-0.chat:7100");
  for (const auto& [name, value] : kLws) all.erase(name);
  place = find({.ranks = 4}, all);
  ASSERT_TRUE(place.ok()) << place.status();
  EXPECT_EQ(place->source, "SLURM");
  EXPECT_EQ(place->rank, 3);
  EXPECT_EQ(place->rendezvous, "node07:7100");
  for (const auto& [name, value] : kSlurm) all.erase(name);
  place = find({.ranks = 2, .manifest_rendezvous = "a:1"}, all);
  ASSERT_TRUE(place.ok()) << place.status();
  EXPECT_EQ(place->source, "Open MPI");
  EXPECT_EQ(place->rendezvous, "a:1");
  place = find({.ranks = 2, .flag_rendezvous = "b:2"}, {{"PMI_RANK", "0"}, {"PMI_SIZE", "2"}});
  ASSERT_TRUE(place.ok()) << place.status();
  EXPECT_EQ(place->source, "PMI");
}

TEST(RankPlace, WhatDoesNotFitIsSaid) {
  const auto why = [](const RankQuestion& q, const Variables& v) {
    return std::string(find(q, v).status().message());
  };
  EXPECT_THAT(why({.ranks = 4}, kLws),
              HasSubstr("LWS_GROUP_SIZE=2, but parallel.tensor x parallel.pipeline is 4"));
  EXPECT_THAT(why({.ranks = 2}, {}), HasSubstr("which is this? Give --rank"));
  EXPECT_THAT(why({.ranks = 2}, kOpenMpi), HasSubstr("does not know where rank 0 listens"));
  EXPECT_THAT(why({.ranks = 2, .flag_rank = 2, .flag_rendezvous = "a:1"}, {}), HasSubstr("want 0 to 1"));
  EXPECT_THAT(why({.ranks = 2}, {{"PMI_RANK", "x"}, {"PMI_SIZE", "2"}}), HasSubstr("PMI_RANK=x is no rank"));
  EXPECT_THAT(why({.ranks = 1, .flag_rank = 1, .flag_rendezvous = "a:1"}, {}), HasSubstr("rank 1"));
}

TEST(RankPlace, TheFirstHostOfASlurmList) {
  EXPECT_EQ(first_slurm_host("gpu[07-09,12],login1"), "gpu07");
  EXPECT_EQ(first_slurm_host("node1,node2"), "node1");
  EXPECT_EQ(first_slurm_host("node1"), "node1");
  EXPECT_EQ(first_slurm_host("n[3]"), "n3");
  EXPECT_EQ(first_slurm_host(""), "");
}

TEST(RankPlace, Names) {
  EXPECT_EQ(rank_name("any-0", 0), "any-0");
  EXPECT_EQ(rank_name("any-0", 3), "any-0.3");
}

}  // namespace
}  // namespace baton::cli
