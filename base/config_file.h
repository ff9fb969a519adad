#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/status.h"

namespace baton {

class ConfigObject;

// A YAML double-quoted scalar.
std::string quoted_yaml(std::string_view text);

// A YAML file being read. All mistakes are collected, each as `file:line:column: key: want ..., got ...`, so
// that the user sees them at once. Thread: one.
class ConfigFile {
 public:
  // `name` stands in the messages. Broken YAML is an error at once.
  static absl::StatusOr<ConfigFile> parse(const std::string& name, const std::string& text);
  ~ConfigFile();
  ConfigFile(ConfigFile&&) noexcept;
  ConfigFile& operator=(ConfigFile&&) noexcept;

  ConfigObject root();
  // All mistakes so far, one a line, in the order of the file; OK when there are none.
  absl::Status status() const;

 private:
  friend class ConfigObject;
  struct Document;
  explicit ConfigFile(std::unique_ptr<Document> document);
  std::unique_ptr<Document> document_;
};

// One mapping of the file. Each getter names a key that may stand there and returns its value or the default;
// done() then reports every other key, with the nearest known name. Borrowed from its ConfigFile. An absent
// mapping reads as an empty one.
class ConfigObject {
 public:
  struct Node;
  ~ConfigObject();
  ConfigObject(ConfigObject&&) noexcept;

  bool has(std::string_view key);
  std::string string(std::string_view key, std::string_view fallback = "");
  std::string choice(std::string_view key, std::string_view fallback,
                     std::initializer_list<std::string_view> allowed);
  bool boolean(std::string_view key, bool fallback);
  int64_t integer(std::string_view key, int64_t fallback, int64_t min, int64_t max);
  std::vector<int64_t> integers(std::string_view key, int64_t min, int64_t max);
  uint64_t bytes(std::string_view key, uint64_t fallback, uint64_t min, uint64_t max);
  Duration duration(std::string_view key, Duration fallback, Duration min, Duration max);
  std::vector<std::string> strings(std::string_view key);
  ConfigObject object(std::string_view key);
  // The entries of a mapping whose keys are names the user chose, in file order.
  std::vector<std::pair<std::string, ConfigObject>> objects(std::string_view key);

  // "file:line:column: spec.key" of `key`, or of the object itself when the key is absent: for mistakes that
  // are only found when the value is used.
  std::string place(std::string_view key);
  // A mistake at `key` of this object (or at the object itself when the key is absent).
  void fail(std::string_view key, std::string_view message);
  void done();

 private:
  friend class ConfigFile;
  ConfigObject(ConfigFile::Document* document, std::unique_ptr<Node> node);
  ConfigFile::Document* document_;
  std::unique_ptr<Node> node_;
};

}  // namespace baton
