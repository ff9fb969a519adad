#include "base/config_file.h"

#include <yaml-cpp/depthguard.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <optional>
#include <set>
#include <sstream>

#include "base/cat.h"
#include "base/units.h"

namespace baton {

namespace {

// Bytes of the UTF-8 character that `text` begins with; 0: of none, or of one that a terminal obeys.
size_t printable_bytes(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return first >= 0x20 && first != 0x7f ? 1 : 0;
  const size_t n = first >= 0xf0 && first <= 0xf4 ? 4 : first >= 0xe0 && first < 0xf0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || n > text.size()) return 0;
  for (size_t i = 1; i < n; ++i)
    if ((byte(i) & 0xc0) != 0x80) return 0;
  return first == 0xc2 && byte(1) < 0xa0 ? 0 : n;
}

// A file that was named by mistake may hold anything, and what is said of it goes to a terminal: other bytes
// as \x1b.
std::string printable(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t n = printable_bytes(text);
    if (n == 0) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\x%02x", static_cast<unsigned char>(text[0]));
      out += escape;
    }
    out += text.substr(0, n);
    text.remove_prefix(std::max<size_t>(n, 1));
  }
  return out;
}

}  // namespace

struct ConfigFile::Document {
  struct Mistake {
    int line;
    int column;
    std::string text;
  };
  std::string name;
  YAML::Node root;
  std::vector<Mistake> mistakes;

  std::string place(const YAML::Mark& mark, std::string_view path) const {
    return cat(name, ":", mark.line + 1, ":", mark.column + 1, ": ", printable(path));
  }
  void add(const YAML::Mark& mark, std::string_view path, std::string_view message) {
    mistakes.push_back({mark.line + 1, mark.column + 1,
                        cat(place(mark, path), path.empty() ? "" : ": ", printable(message))});
  }
};

struct ConfigObject::Node {
  YAML::Node yaml;  // a map, or undefined
  YAML::Mark mark;
  std::string path;
  std::vector<std::string> asked;

  std::string path_of(std::string_view key) const {
    return path.empty() ? std::string(key) : cat(path, ".", key);
  }
  // The value under `key` and where the key stands; nothing when it is absent or null.
  std::optional<std::pair<YAML::Node, YAML::Mark>> find(std::string_view key) {
    asked.emplace_back(key);
    if (!yaml.IsDefined() || !yaml.IsMap()) return std::nullopt;
    for (const auto& entry : yaml)
      if (entry.first.IsScalar() && entry.first.Scalar() == key && !entry.second.IsNull())
        return std::pair(entry.second, entry.first.Mark());
    return std::nullopt;
  }
};

namespace {

std::optional<int64_t> whole_number(const YAML::Node& node, int64_t min, int64_t max) {
  if (!node.IsScalar()) return std::nullopt;
  const std::string& text = node.Scalar();
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool good = error == std::errc{} && end == text.data() + text.size() && value >= min && value <= max;
  return good ? std::optional(value) : std::nullopt;
}

std::string shown(const YAML::Node& node) {
  if (node.IsScalar()) return cat("'", node.Scalar().substr(0, 60), "'");
  if (node.IsSequence()) return "a list";
  if (node.IsMap()) return "a mapping";
  return "nothing";
}

// Keys that stand twice in a mapping: yaml-cpp would silently take one of them.
struct Duplicates {
  static constexpr int kMostNodes = 100'000;  // aliases of aliases make a small text a huge tree
  std::vector<std::pair<YAML::Mark, std::string>> found;
  int nodes = 0;

  bool too_many() const { return nodes > kMostNodes; }
  void find(const YAML::Node& node, int depth = 0) {
    if (++nodes > kMostNodes || depth > 32) return;
    if (node.IsSequence()) {
      for (const auto& child : node)
        if (!too_many()) find(child, depth + 1);
    } else if (node.IsMap()) {
      find_in_map(node, depth);
    }
  }
  void find_in_map(const YAML::Node& node, int depth) {
    std::set<std::string> seen;
    for (const auto& entry : node) {
      if (too_many()) return;
      if (entry.first.IsScalar() && !seen.insert(entry.first.Scalar()).second)
        found.emplace_back(entry.first.Mark(), entry.first.Scalar());
      find(entry.second, depth + 1);
    }
  }
};

// Where documents begin.
class DocumentStarts final : public YAML::EventHandler {
 public:
  std::vector<YAML::Mark> marks;
  void OnDocumentStart(const YAML::Mark& mark) override { marks.push_back(mark); }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {
  }
  void OnMapEnd() override {}
};

// Of a second document, which YAML::Load() leaves unread. YAML::LoadAll() would not do: of some malformed
// texts it reads documents without end.
std::optional<YAML::Mark> second_document(const std::string& text) {
  std::istringstream stream(text);
  YAML::Parser parser(stream);
  DocumentStarts starts;
  while (starts.marks.size() < 2 && parser.HandleNextDocument(starts)) {
  }
  if (starts.marks.size() < 2) return std::nullopt;
  return starts.marks[1];
}

// What the library's words do not say.
std::string explained(const YAML::Exception& error, const std::string& text) {
  if (dynamic_cast<const YAML::DeepRecursion*>(&error) != nullptr) return "nested too deep";
  std::istringstream lines(text);
  std::string line;
  for (int i = 0; i <= error.mark.line; ++i) std::getline(lines, line);
  const size_t tab = line.substr(0, line.find_first_not_of(" \t")).find('\t');
  return tab == std::string::npos ? error.msg : error.msg + "; indentation wants spaces, here is a tab";
}

}  // namespace

std::string quoted_yaml(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\x%02x", byte);
      out += escape;
      continue;
    }
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + '"';
}

ConfigFile::ConfigFile(std::unique_ptr<Document> document) : document_(std::move(document)) {}
ConfigFile::~ConfigFile() = default;
ConfigFile::ConfigFile(ConfigFile&&) noexcept = default;
ConfigFile& ConfigFile::operator=(ConfigFile&&) noexcept = default;

absl::StatusOr<ConfigFile> ConfigFile::parse(const std::string& name, const std::string& text) {
  auto document = std::make_unique<Document>();
  document->name = name;
  if (text.size() > (1u << 20)) return absl::InvalidArgumentError(cat(name, ": larger than 1 MiB"));
  try {
    document->root = YAML::Load(text);
    if (const auto second = second_document(text))
      return absl::InvalidArgumentError(
          cat(document->place(*second, ""), "want one document, here begins another (separated by ---)"));
  } catch (const YAML::Exception& e) {
    return absl::InvalidArgumentError(cat(name, ":", e.mark.line + 1, ":", e.mark.column + 1,
                                          ": not YAML: ", printable(explained(e, text))));
  }
  if (!document->root.IsMap())
    return absl::InvalidArgumentError(cat(name, ":1:1: want a mapping with apiVersion, kind, spec, got ",
                                          printable(shown(document->root))));
  Duplicates twice;
  twice.find(document->root);
  if (twice.too_many())
    return absl::InvalidArgumentError(cat(name, ": more than ", Duplicates::kMostNodes,
                                          " values, aliases counted each time they are used"));
  for (const auto& [mark, key] : twice.found) document->add(mark, key, "stands twice in one mapping");
  return ConfigFile(std::move(document));
}

ConfigObject ConfigFile::root() {
  auto node = std::make_unique<ConfigObject::Node>();
  node->yaml = document_->root;
  node->mark = document_->root.Mark();
  return ConfigObject(document_.get(), std::move(node));
}

absl::Status ConfigFile::status() const {
  if (document_->mistakes.empty()) return absl::OkStatus();
  auto sorted = document_->mistakes;
  std::ranges::stable_sort(sorted, {}, [](const auto& m) { return std::pair(m.line, m.column); });
  std::vector<std::string> lines;
  lines.reserve(sorted.size());
  for (const auto& m : sorted) lines.push_back(m.text);
  return absl::InvalidArgumentError(join(lines, "\n"));
}

ConfigObject::ConfigObject(ConfigFile::Document* document, std::unique_ptr<Node> node)
    : document_(document), node_(std::move(node)) {}
ConfigObject::~ConfigObject() = default;
ConfigObject::ConfigObject(ConfigObject&&) noexcept = default;

bool ConfigObject::has(std::string_view key) { return node_->find(key).has_value(); }

std::string ConfigObject::place(std::string_view key) {
  const auto found = node_->find(key);
  return document_->place(found ? found->second : node_->mark, node_->path_of(key));
}

void ConfigObject::fail(std::string_view key, std::string_view message) {
  const auto found = key.empty() ? std::nullopt : node_->find(key);
  document_->add(found ? found->second : node_->mark, key.empty() ? node_->path : node_->path_of(key),
                 message);
}

std::string ConfigObject::string(std::string_view key, std::string_view fallback) {
  const auto found = node_->find(key);
  if (!found) return std::string(fallback);
  if (found->first.IsScalar()) return found->first.Scalar();
  fail(key, cat("want text, got ", shown(found->first)));
  return std::string(fallback);
}

std::string ConfigObject::choice(std::string_view key, std::string_view fallback,
                                 std::initializer_list<std::string_view> allowed) {
  std::string value = string(key, fallback);
  if (std::ranges::find(allowed, value) != allowed.end()) return value;
  const auto near = nearest_name(value, allowed);
  fail(key, cat("want one of ", join(allowed, ", "), ", got '", value, "'",
                near ? cat(" (did you mean ", *near, "?)") : ""));
  return std::string(fallback);
}

bool ConfigObject::boolean(std::string_view key, bool fallback) {
  const auto found = node_->find(key);
  if (!found) return fallback;
  if (found->first.IsScalar() && found->first.Scalar() == "true") return true;
  if (found->first.IsScalar() && found->first.Scalar() == "false") return false;
  fail(key, cat("want true or false, got ", shown(found->first)));
  return fallback;
}

int64_t ConfigObject::integer(std::string_view key, int64_t fallback, int64_t min, int64_t max) {
  const auto found = node_->find(key);
  if (!found) return fallback;
  if (const auto value = whole_number(found->first, min, max)) return *value;
  fail(key, cat("want a whole number ", min, "..", max, ", got ", shown(found->first)));
  return fallback;
}

std::vector<int64_t> ConfigObject::integers(std::string_view key, int64_t min, int64_t max) {
  std::vector<int64_t> out;
  const auto found = node_->find(key);
  if (!found) return out;
  if (!found->first.IsSequence()) {
    fail(key, cat("want a list of whole numbers, got ", shown(found->first)));
    return out;
  }
  for (const auto& item : found->first) {
    if (const auto value = whole_number(item, min, max)) {
      out.push_back(*value);
    } else {
      fail(key, cat("want whole numbers ", min, "..", max, ", got ", shown(item)));
    }
  }
  return out;
}

uint64_t ConfigObject::bytes(std::string_view key, uint64_t fallback, uint64_t min, uint64_t max) {
  const auto found = node_->find(key);
  if (!found) return fallback;
  if (found->first.IsScalar())
    if (const auto v = parse_bytes(found->first.Scalar()); v && *v >= min && *v <= max) return *v;
  fail(key, cat("want a size ", format_bytes(min), " to ", format_bytes(max), " like 512Mi or 4Gi, got ",
                shown(found->first)));
  return fallback;
}

Duration ConfigObject::duration(std::string_view key, Duration fallback, Duration min, Duration max) {
  const auto found = node_->find(key);
  if (!found) return fallback;
  if (found->first.IsScalar())
    if (const auto v = parse_duration(found->first.Scalar()); v && *v >= min && *v <= max) return *v;
  fail(key, cat("want a duration ", format_duration(min), " to ", format_duration(max),
                " like 500ms or 2s, got ", shown(found->first)));
  return fallback;
}

std::vector<std::string> ConfigObject::strings(std::string_view key) {
  std::vector<std::string> out;
  const auto found = node_->find(key);
  if (!found) return out;
  if (!found->first.IsSequence()) {
    fail(key, cat("want a list of texts, got ", shown(found->first)));
    return out;
  }
  for (const auto& item : found->first) {
    if (item.IsScalar()) {
      out.push_back(item.Scalar());
    } else {
      fail(key, cat("want a list of texts, got ", shown(item), " in it"));
    }
  }
  return out;
}

ConfigObject ConfigObject::object(std::string_view key) {
  auto child = std::make_unique<Node>();
  child->path = node_->path_of(key);
  child->mark = node_->mark;
  if (const auto found = node_->find(key)) {
    child->mark = found->second;
    if (found->first.IsMap()) {
      child->yaml.reset(found->first);
    } else {
      fail(key, cat("want a mapping, got ", shown(found->first)));
    }
  }
  return ConfigObject(document_, std::move(child));
}

std::vector<std::pair<std::string, ConfigObject>> ConfigObject::objects(std::string_view key) {
  std::vector<std::pair<std::string, ConfigObject>> out;
  const auto found = node_->find(key);
  if (!found) return out;
  if (!found->first.IsMap()) {
    fail(key, cat("want a mapping of names, got ", shown(found->first)));
    return out;
  }
  for (const auto& entry : found->first) {
    if (!entry.first.IsScalar()) continue;
    auto child = std::make_unique<Node>();
    child->path = cat(node_->path_of(key), ".", entry.first.Scalar());
    child->mark = entry.first.Mark();
    if (entry.second.IsMap()) {
      child->yaml.reset(entry.second);
    } else if (!entry.second.IsNull()) {
      document_->add(entry.first.Mark(), child->path, cat("want a mapping, got ", shown(entry.second)));
    }
    out.emplace_back(entry.first.Scalar(), ConfigObject(document_, std::move(child)));
  }
  return out;
}

void ConfigObject::done() {
  if (!node_->yaml.IsDefined() || !node_->yaml.IsMap()) return;
  for (const auto& entry : node_->yaml) {
    const std::string key = entry.first.IsScalar() ? entry.first.Scalar() : "?";
    if (std::ranges::find(node_->asked, key) != node_->asked.end()) continue;
    const auto near = nearest_name(key, node_->asked);
    std::vector<std::string> known = node_->asked;
    std::ranges::sort(known);
    known.erase(std::ranges::unique(known).begin(), known.end());
    document_->add(entry.first.Mark(), node_->path_of(key),
                   near ? cat("unknown key (did you mean ", *near, "?)")
                        : cat("unknown key; known here: ", join(known, ", ")));
  }
}

}  // namespace baton
