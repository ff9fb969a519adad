#include "base/config_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace baton {
namespace {

using namespace std::chrono_literals;

std::string errors_of(const std::string& text, void (*read)(ConfigObject&)) {
  auto file = ConfigFile::parse("f.yaml", text);
  if (!file.ok()) return std::string(file.status().message());
  {
    ConfigObject root = file->root();
    read(root);
    root.done();
  }
  return std::string(file->status().message());
}

TEST(ConfigFile, ReadsEveryKind) {
  auto file = ConfigFile::parse("f.yaml",
                                "a: text\nb: 7\nc: true\nd: 2Mi\ne: 20ms\nf: [x, y]\ng: {h: 1}\nn: {one: {k: "
                                "1}, two: }\ni: [16, 14]\n");
  ASSERT_TRUE(file.ok());
  ConfigObject root = file->root();
  EXPECT_EQ(root.string("a"), "text");
  EXPECT_EQ(root.integer("b", 0, 0, 10), 7);
  EXPECT_TRUE(root.boolean("c", false));
  EXPECT_EQ(root.bytes("d", 0, 0, 1u << 30), 2u << 20);
  EXPECT_EQ(root.duration("e", 0s, 0s, 1s), Duration(20ms));
  EXPECT_EQ(root.strings("f"), (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(root.integers("i", 1, 99), (std::vector<int64_t>{16, 14}));
  EXPECT_TRUE(root.integers("absent", 1, 99).empty());
  EXPECT_EQ(root.object("g").integer("h", 0, 0, 1), 1);
  auto named = root.objects("n");
  ASSERT_EQ(named.size(), 2u);
  EXPECT_EQ(named[0].first, "one");
  EXPECT_EQ(named[1].second.integer("k", 42, 0, 100), 42);
  EXPECT_EQ(root.string("absent", "default"), "default");
  root.done();
  EXPECT_TRUE(file->status().ok()) << file->status();
}

// What a file says must not move the cursor or change the title of the terminal that shows the mistake.
TEST(ConfigFile, MistakesAreInPrintableBytes) {
  const auto read = [](ConfigObject& r) { r.choice("kind", "Cluster", {"Cluster"}); };
  EXPECT_EQ(errors_of("kind: \"\\e[2J\\a\\x7f\"\n", read),
            "f.yaml:1:1: kind: want one of Cluster, got '\\x1b[2J\\x07\\x7f'");
  EXPECT_THAT(errors_of("\"\\e]0;x\": 1\n", read), testing::HasSubstr("\\x1b]0;x: unknown key"));
  EXPECT_THAT(errors_of("\"\\e[2J\"\n", read), testing::HasSubstr("got '\\x1b[2J'"));
  EXPECT_THAT(errors_of("kind: \"\\u009b2J\"\n", read), testing::HasSubstr("got '\\xc2\\x9b2J'"));
  EXPECT_THAT(errors_of("kind: \xc3\xa9\xe2\x82\xac\xf0\x9f\x99\x82\n", read),
              testing::HasSubstr("got '\xc3\xa9\xe2\x82\xac\xf0\x9f\x99\x82'"))
      << "letters of other languages stay";
  std::string binary = "GGUF";
  for (int i = 1; i < 256; ++i) binary += static_cast<char>(i);
  for (const char c : errors_of(binary, read)) {
    EXPECT_FALSE(static_cast<unsigned char>(c) < 0x20 || c == 0x7f) << static_cast<int>(c);
  }
}

TEST(ConfigFile, NamesPlaceKeyAndWish) {
  EXPECT_EQ(errors_of("a:\n  bee: 99\n",
                      [](ConfigObject& r) {
                        auto a = r.object("a");
                        a.integer("bee", 1, 1, 9);
                        a.done();
                      }),
            "f.yaml:2:3: a.bee: want a whole number 1..9, got '99'");
  EXPECT_EQ(errors_of("kind: Clutser\n",
                      [](ConfigObject& r) { r.choice("kind", "Cluster", {"Cluster", "Other"}); }),
            "f.yaml:1:1: kind: want one of Cluster, Other, got 'Clutser' (did you mean Cluster?)");
  EXPECT_EQ(errors_of("replica: 1\n", [](ConfigObject& r) { r.integer("replicas", 1, 1, 9); }),
            "f.yaml:1:1: replica: unknown key (did you mean replicas?)");
  EXPECT_EQ(errors_of("a: 1\na: 2\n", [](ConfigObject& r) { r.integer("a", 1, 0, 9); }),
            "f.yaml:2:1: a: stands twice in one mapping");
  EXPECT_EQ(errors_of("a: [1, 0, x]\nb: 5\n",
                      [](ConfigObject& r) {
                        r.integers("a", 1, 9);
                        r.integers("b", 1, 9);
                      }),
            "f.yaml:1:1: a: want whole numbers 1..9, got '0'\n"
            "f.yaml:1:1: a: want whole numbers 1..9, got 'x'\n"
            "f.yaml:2:1: b: want a list of whole numbers, got '5'");
}

TEST(ConfigFile, TellsAllMistakesAtOnceInFileOrder) {
  const std::string errors = errors_of("x: maybe\ny: 5\nz: [1]\n", [](ConfigObject& r) {
    r.string("z");
    r.duration("y", 0s, 0s, 1s);
    r.boolean("x", false);
  });
  EXPECT_EQ(errors,
            "f.yaml:1:1: x: want true or false, got 'maybe'\n"
            "f.yaml:2:1: y: want a duration 0 us to 1 s like 500ms or 2s, got '5'\n"
            "f.yaml:3:1: z: want text, got a list");
}

TEST(ConfigFile, RefusesWhatIsNoMappingOrNoYaml) {
  for (const char* bad : {"", "- a\n", "text", "a: [", "a: {b: 1", "\t", "a: b: c"}) {
    const auto file = ConfigFile::parse("f.yaml", bad);
    ASSERT_FALSE(file.ok()) << bad;
    EXPECT_TRUE(file.status().message().find("f.yaml:") == 0) << file.status();
  }
}

TEST(ConfigFile, SaysWhatTheLibraryDoesNot) {
  const auto error = [](const std::string& text) {
    return std::string(ConfigFile::parse("f.yaml", text).status().message());
  };
  EXPECT_THAT(error("a:\n\tb: 1\n"), testing::HasSubstr("f.yaml:2:"));
  EXPECT_THAT(error("a:\n\tb: 1\n"), testing::HasSubstr("; indentation wants spaces, here is a tab"));
  EXPECT_EQ(error("a: 1\n---\nb: 2\n"),
            "f.yaml:2:1: want one document, here begins another (separated by ---)");
  EXPECT_NE(error(std::string("\0,,,,", 6)), "") << "the library reads documents of it without end";
  EXPECT_THAT(error("a: " + std::string(100'000, '[')), testing::HasSubstr("nested too deep"));
  EXPECT_EQ(errors_of("a: [x, {b: c}]\n", [](ConfigObject& r) { r.strings("a"); }),
            "f.yaml:1:1: a: want a list of texts, got a mapping in it");
}

// Ten aliases of ten aliases of ...: 300 bytes that are 10^9 values.
TEST(ConfigFile, AliasesDoNotMakeItEndless) {
  std::string text = "a: &a [x, x, x, x, x, x, x, x, x, x]\n";
  for (char c = 'b'; c < 'j'; ++c) {
    text += std::string(1, c) + ": &" + c + " [";
    for (int i = 0; i < 10; ++i) text += std::string(i == 0 ? "*" : ", *") + static_cast<char>(c - 1);
    text += "]\n";
  }
  EXPECT_EQ(ConfigFile::parse("f.yaml", text).status().message(),
            "f.yaml: more than 100000 values, aliases counted each time they are used");
}

}  // namespace
}  // namespace baton
