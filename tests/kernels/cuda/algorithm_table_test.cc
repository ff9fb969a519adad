// The file of algorithms: it says what it said, or it is refused with what to do.
#include "kernels/cuda/algorithm_table.h"

#include <gmock/gmock.h>

#include <functional>
#include <random>

namespace baton::kernels::cuda {
namespace {

using ::testing::HasSubstr;

AlgorithmTable some_table() {
  const TunedOn on = {"NVIDIA H200 MIG 1g.18gb", 90, 16, 130002, 13000};
  return {.tuned_on = on,
          .products = {{{6144, 4096, 4096, 4096, 6144, false},
                        0xfedcba9876543210,
                        {{8, {{1, 2, 3, 4, 5, 6, 7, ~0ull}}}, {8192, {{9}}}}},
                       {{4096, 4096, 4096, 8192, 4096, true}, 5, {{4096, {{11}}}}}}};
}

std::string refusal(const std::string& text) {
  const auto table = parse_table("t.txt", text);
  return table.ok() ? "accepted" : std::string(table.status().message());
}

TEST(AlgorithmTable, SaysWhatWasWritten) {
  const auto read = parse_table("t.txt", table_text(some_table()));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, some_table());
  EXPECT_EQ(read->most_rows(), 4096);
  EXPECT_EQ(AlgorithmTable{}.most_rows(), 0);
}

TEST(AlgorithmTable, RowsTakeTheFirstAlgorithmThatReachesThem) {
  const AlgorithmTable table = some_table();
  const TunedProduct* product = table.find({6144, 4096, 4096, 4096, 6144, false});
  ASSERT_NE(product, nullptr);
  EXPECT_EQ(algorithm_for(*product, 1)->words[0], 1u);
  EXPECT_EQ(algorithm_for(*product, 8)->words[0], 1u);
  EXPECT_EQ(algorithm_for(*product, 9)->words[0], 9u);
  EXPECT_EQ(algorithm_for(*product, 8193), nullptr);
  EXPECT_EQ(table.find({6144, 4096, 4096, 4096, 6144, true}), nullptr);
}

// Another algorithm of the same bits is no other class; other bits are.
TEST(AlgorithmTable, BitsAreThoseOfTheSignatures) {
  AlgorithmTable table = some_table();
  const std::string bits = table.bits();
  EXPECT_EQ(bits.size(), 16u);
  table.products[0].rows[0].algorithm.words[0] = 77;
  std::swap(table.products[0], table.products[1]);
  EXPECT_EQ(table.bits(), bits);
  table.products[0].signature ^= 1;
  EXPECT_NE(table.bits(), bits);
}

TEST(AlgorithmTable, HoldsForOneDeviceDriverAndLibrary) {
  const AlgorithmTable table = some_table();
  EXPECT_TRUE(table.check(table.tuned_on).ok());
  for (const auto& change : std::vector<std::function<void(TunedOn&)>>{
           [](TunedOn& t) { t.device = "NVIDIA H100"; }, [](TunedOn& t) { t.processors = 132; },
           [](TunedOn& t) { t.library = 130101; }, [](TunedOn& t) { t.driver = 13010; }}) {
    TunedOn here = table.tuned_on;
    change(here);
    const absl::Status refused = table.check(here);
    EXPECT_TRUE(absl::IsFailedPrecondition(refused));
    EXPECT_THAT(refused.message(), HasSubstr(here.text()));
    EXPECT_THAT(refused.message(), HasSubstr("baton tune"));
  }
}

TEST(AlgorithmTable, RefusesWhatIsNoTable) {
  EXPECT_THAT(refusal(""), HasSubstr("t.txt:0: the checksum"));
  EXPECT_THAT(refusal("baton algorithms 1\n"), HasSubstr("baton tune"));
  const auto missing = read_table("/nonexistent/t.txt");
  EXPECT_TRUE(absl::IsNotFound(missing.status()));
  EXPECT_THAT(missing.status().message(), HasSubstr("/nonexistent/t.txt: no such table"));
}

// Any byte that is lost or another one is found.
TEST(AlgorithmTable, RefusesWhatWasCutOrChanged) {
  const std::string text = table_text(some_table());
  for (size_t length = 0; length < text.size(); ++length)
    EXPECT_THAT(refusal(text.substr(0, length)), HasSubstr("cut off, or changed")) << length;
  std::mt19937 random(27);
  SCOPED_TRACE(27);
  for (size_t i = 0; i < text.size(); ++i) {
    std::string changed = text;
    changed[i] = static_cast<char>(changed[i] ^ (1 << random() % 7));
    EXPECT_NE(refusal(changed), "accepted") << i;
  }
}

// With a checksum that is right: what another version, or a mistake of ours, might write.
TEST(AlgorithmTable, NamesTheLineThatIsWrong) {
  const auto refused = [](const std::function<void(AlgorithmTable&)>& change) {
    AlgorithmTable table = some_table();
    change(table);
    return refusal(table_text(table));
  };
  EXPECT_THAT(refused([](auto& t) { t.products[0].rows[1].most_rows = 8; }),
              HasSubstr("t.txt:6: want more rows than in the line before"));
  EXPECT_THAT(refused([](auto& t) { t.products[1].rows.clear(); }), HasSubstr("4096 x 4096, added has no"));
  EXPECT_THAT(refused([](auto& t) { t.products[1].shape = t.products[0].shape; }),
              HasSubstr("t.txt:7: product 6144 x 4096 stands here twice"));
  EXPECT_THAT(refused([](auto& t) { t.products[1].shape.k = 0; }), HasSubstr("t.txt:7: want 'product N K"));
  EXPECT_THAT(refused([](auto& t) { t.tuned_on.device = ""; }), HasSubstr("t.txt:2: want 'device"));
}

}  // namespace
}  // namespace baton::kernels::cuda
