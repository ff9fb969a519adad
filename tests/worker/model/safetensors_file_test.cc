#include "worker/model/safetensors_file.h"

#include <gmock/gmock.h>

#include <cstring>

#include "base/rng.h"
#include "tests/worker/model/temp_dir.h"

namespace baton::worker {
namespace {

using baton::testing::TempDir;
using baton::testing::write_file;
using ::testing::HasSubstr;

std::string image(const std::string& header, size_t data_bytes) {
  const uint64_t size = header.size();
  std::string out(8, '\0');
  std::memcpy(out.data(), &size, 8);
  out += header;
  for (size_t i = 0; i < data_bytes; ++i) out += static_cast<char>(i);
  return out;
}

absl::StatusOr<std::vector<SafetensorsTensor>> parse(const std::string& bytes) {
  return parse_safetensors("m.safetensors", {reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()});
}

std::string refusal(const std::string& header, size_t data_bytes) {
  const auto result = parse(image(header, data_bytes));
  return result.ok() ? "accepted" : std::string(result.status().message());
}

TEST(SafetensorsFile, ReadsTensorsInFileOrder) {
  const std::string bytes = image(
      R"({"__metadata__": {"format": "pt"},
          "b": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [8, 20]},
          "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
          "step": {"dtype": "I64", "shape": [], "data_offsets": [20, 28]}}   )",
      28);
  const auto tensors = parse(bytes);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 3u);
  EXPECT_EQ((*tensors)[0].name, "a");
  EXPECT_EQ((*tensors)[0].type, DType::kF32);
  EXPECT_EQ((*tensors)[1].name, "b");
  EXPECT_EQ((*tensors)[1].type, DType::kBF16);
  EXPECT_EQ((*tensors)[1].shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ((*tensors)[1].bytes, 12u);
  EXPECT_EQ(std::to_integer<int>((*tensors)[1].data[0]), 8);
  EXPECT_EQ((*tensors)[2].type, std::nullopt);
  EXPECT_EQ((*tensors)[2].stored_type, "I64");
}

TEST(SafetensorsFile, RefusesBadHeaders) {
  EXPECT_THAT(std::string(parse("1234").status().message()), HasSubstr("shorter than 8 bytes"));
  std::string huge = image("{}", 0);
  huge[7] = 1;
  EXPECT_THAT(std::string(parse(huge).status().message()), HasSubstr("over the limit"));
  std::string beyond = image("{}", 0);
  beyond[0] = 3;
  EXPECT_THAT(std::string(parse(beyond).status().message()), HasSubstr("reaches beyond the file"));
  EXPECT_THAT(refusal("{", 0), HasSubstr("m.safetensors: header: not valid JSON"));
  EXPECT_THAT(refusal("[1]", 0), HasSubstr("not an object"));
  EXPECT_THAT(refusal("{\"a\": " + std::string(2000, '[') + std::string(2000, ']') + "}", 0),
              HasSubstr("not valid JSON"));
}

TEST(SafetensorsFile, RefusesBadEntriesByName) {
  const auto entry = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return "{\"w\": {\"dtype\": " + dtype + ", \"shape\": " + shape + ", \"data_offsets\": " + offsets + "}}";
  };
  EXPECT_EQ(refusal(entry("\"F32\"", "[2]", "[0, 8]"), 8), "accepted");
  EXPECT_EQ(refusal("{\"w\": 1}", 8), "m.safetensors: w: the entry is not an object");
  EXPECT_EQ(refusal(entry("\"F99\"", "[2]", "[0, 8]"), 8), "m.safetensors: w: unknown dtype F99");
  EXPECT_THAT(refusal(entry("3", "[2]", "[0, 8]"), 8), HasSubstr("w: dtype is missing"));
  EXPECT_THAT(refusal(entry("\"F32\"", "2", "[0, 8]"), 8), HasSubstr("w: shape is missing"));
  EXPECT_THAT(refusal(entry("\"F32\"", "[-2]", "[0, 8]"), 8), HasSubstr("w: a dimension"));
  EXPECT_THAT(refusal(entry("\"F32\"", "[1.5]", "[0, 8]"), 8), HasSubstr("w: a dimension"));
  EXPECT_THAT(refusal(entry("\"F32\"", "[1,1,1,1,1,1,1,1,2]", "[0, 8]"), 8), HasSubstr("dimensions"));
  EXPECT_THAT(refusal(entry("\"F32\"", "[4294967296, 4294967296]", "[0, 8]"), 8),
              HasSubstr("shape overflows"));
  EXPECT_THAT(refusal(entry("\"F32\"", "[3]", "[0, 8]"), 8),
              HasSubstr("shape needs 12 bytes, data_offsets give 8"));
  EXPECT_THAT(refusal(entry("\"F32\"", "[2]", "[0, 8, 9]"), 8), HasSubstr("not a pair"));
  EXPECT_THAT(refusal(entry("\"F32\"", "[2]", "[8, 0]"), 8), HasSubstr("not ascending"));
  EXPECT_THAT(refusal(entry("\"F32\"", "[2]", "[-8, 0]"), 8), HasSubstr("not ascending"));
  EXPECT_THAT(refusal(entry("\"F32\"", "[2]", "[0, 8]"), 7), HasSubstr("truncated or damaged"));
  EXPECT_THAT(refusal(entry("\"F32\"", "[2]", "[18446744073709551608, 0]"), 8), HasSubstr("not ascending"));
}

TEST(SafetensorsFile, RefusesGapsAndOverlaps) {
  const auto two = [](int begin) {
    return "{\"a\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 8]}, \"b\": {\"dtype\": "
           "\"F32\", "
           "\"shape\": [1], \"data_offsets\": [" +
           std::to_string(begin) + ", " + std::to_string(begin + 4) + "]}}";
  };
  EXPECT_EQ(refusal(two(8), 12), "accepted");
  EXPECT_EQ(refusal(two(4), 8), "m.safetensors: b: overlaps the tensor before it");
  EXPECT_EQ(refusal(two(9), 13), "m.safetensors: b: there is a gap before its data");
  EXPECT_EQ(refusal(two(8), 14), "m.safetensors: 2 bytes after the last tensor");
}

TEST(SafetensorsFile, NamesAreEscapedInMessages) {
  EXPECT_EQ(refusal("{\"a\\u001b[31m\": 1}", 0), "m.safetensors: a\\x1b[31m: the entry is not an object");
}

std::string one_tensor(const std::string& name) {
  return image("{\"" + name + "\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}}", 4);
}

TEST(SafetensorsFiles, ShardsByIndex) {
  TempDir dir("shards");
  write_file(dir.file("s1.safetensors"), one_tensor("a"));
  write_file(dir.file("s2.safetensors"), one_tensor("b"));
  const auto open_with = [&](const std::string& map) {
    write_file(dir.file("model.safetensors.index.json"), "{\"weight_map\": " + map + "}");
    return SafetensorsFiles::open(dir.path());
  };
  const auto files = open_with(R"({"a": "s1.safetensors", "b": "s2.safetensors"})");
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ((*files)->tensors().size(), 2u);
  ASSERT_NE((*files)->find("b"), nullptr);
  EXPECT_EQ((*files)->find("c"), nullptr);

  const auto message = [&](const std::string& map) { return std::string(open_with(map).status().message()); };
  EXPECT_THAT(message(R"({"a": "s2.safetensors", "b": "s1.safetensors"})"), HasSubstr("a: is in "));
  EXPECT_THAT(message(R"({"c": "s1.safetensors"})"), HasSubstr("c: is in none of the shards"));
  EXPECT_THAT(message(R"({"a": "../s1.safetensors"})"), HasSubstr("a: bad file name"));
  EXPECT_THAT(message(R"({"a": "s9.safetensors"})"), HasSubstr("s9.safetensors: cannot open"));
  EXPECT_THAT(message(R"({"a": 7})"), HasSubstr("not a string"));
  EXPECT_THAT(message("[]"), HasSubstr("weight_map is missing"));
  write_file(dir.file("s2.safetensors"), one_tensor("a"));
  EXPECT_THAT(message(R"({"a": "s1.safetensors", "b": "s2.safetensors"})"), HasSubstr("a: is also in"));
}

TEST(SafetensorsFiles, NothingThere) {
  TempDir dir("no-weights");
  EXPECT_EQ(SafetensorsFiles::open(dir.path()).status().code(), absl::StatusCode::kNotFound);
}

// Any bytes either parse into tensors inside the image or are refused.
TEST(SafetensorsFile, MutatedImagesNeverReachOutside) {
  const std::string good = image(
      R"({"a": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
          "b": {"dtype": "F16", "shape": [8], "data_offsets": [32, 48]}})",
      48);
  constexpr uint64_t kSeed = 20251;
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  Rng rng(kSeed);
  int accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string bytes = good;
    for (uint64_t n = 1 + rng.below(4); n > 0; --n) {
      const uint64_t at = rng.below(bytes.size());
      const uint64_t kind = rng.below(4);
      if (kind == 0) bytes[at] = static_cast<char>(rng.below(256));
      if (kind == 1) bytes[at] = static_cast<char>('0' + rng.below(10));
      if (kind == 2) bytes[at] = static_cast<char>(bytes[at] ^ (1 << rng.below(8)));
      if (kind == 3) bytes.resize(at + 1);
    }
    const auto tensors = parse(bytes);
    if (!tensors.ok()) continue;
    ++accepted;
    const auto* begin = reinterpret_cast<const std::byte*>(bytes.data());
    for (const SafetensorsTensor& t : *tensors) {
      ASSERT_GE(t.data, begin);
      ASSERT_LE(t.data + t.bytes, begin + bytes.size());
    }
  }
  EXPECT_GT(accepted, 0);
}

}  // namespace
}  // namespace baton::worker
