#include "worker/model/safetensors_file.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cstring>
#include <filesystem>
#include <set>

#include "base/cat.h"

namespace baton::worker {
namespace {

namespace json = boost::json;

constexpr uint64_t kMaxHeaderBytes = uint64_t{16} << 20;
constexpr size_t kMaxNameBytes = 512;
constexpr size_t kMaxRank = 8;
constexpr size_t kMaxShards = 4096;

struct StoredType {
  std::string_view name;
  int bytes;
  std::optional<DType> type;
};
constexpr StoredType kStoredTypes[] = {
    {"F32", 4, DType::kF32},      {"F16", 2, DType::kF16},      {"BF16", 2, DType::kBF16},
    {"BOOL", 1, std::nullopt},    {"U8", 1, std::nullopt},      {"I8", 1, std::nullopt},
    {"F8_E4M3", 1, std::nullopt}, {"F8_E5M2", 1, std::nullopt}, {"I16", 2, std::nullopt},
    {"U16", 2, std::nullopt},     {"I32", 4, std::nullopt},     {"U32", 4, std::nullopt},
    {"F64", 8, std::nullopt},     {"I64", 8, std::nullopt},     {"U64", 8, std::nullopt},
};

// Names come from the file: control characters must not reach a terminal or a log line.
std::string printable(std::string_view text) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string out;
  for (const unsigned char c : text.substr(0, 100)) {
    if (c >= 0x20 && c < 0x7f) {
      out += static_cast<char>(c);
    } else {
      out.append("\\x") += kHex[c >> 4];
      out += kHex[c & 15];
    }
  }
  return out;
}

absl::Status refuse(const std::string& file, std::string_view what) {
  return absl::InvalidArgumentError(cat(file, ": ", what));
}
absl::Status refuse(const std::string& file, std::string_view tensor, std::string_view what) {
  return absl::InvalidArgumentError(cat(file, ": ", printable(tensor), ": ", what));
}

std::optional<uint64_t> non_negative(const json::value& value) {
  if (value.is_uint64()) return value.get_uint64();
  if (value.is_int64() && value.get_int64() >= 0) return static_cast<uint64_t>(value.get_int64());
  return std::nullopt;
}

absl::StatusOr<json::value> parse_json(const std::string& file, std::string_view text, size_t max_depth) {
  json::parse_options options;
  options.max_depth = max_depth;
  json::error_code error;
  json::value value = json::parse(json::string_view(text.data(), text.size()), error, {}, options);
  if (error) return refuse(file, cat("not valid JSON: ", error.message()));
  if (!value.is_object()) return refuse(file, "the JSON is not an object");
  return value;
}

absl::StatusOr<const StoredType*> stored_type(const std::string& file, std::string_view name,
                                              const json::object& entry) {
  const json::value* dtype = entry.if_contains("dtype");
  if (dtype == nullptr || !dtype->is_string()) return refuse(file, name, "dtype is missing or not a string");
  const std::string_view wanted(dtype->get_string().data(), dtype->get_string().size());
  for (const StoredType& t : kStoredTypes)
    if (t.name == wanted) return &t;
  return refuse(file, name, cat("unknown dtype ", printable(wanted)));
}

// Reads "shape" into the tensor and returns the number of bytes it implies.
absl::StatusOr<uint64_t> read_shape(const std::string& file, const json::object& entry, int element_bytes,
                                    SafetensorsTensor& tensor) {
  const json::value* shape = entry.if_contains("shape");
  if (shape == nullptr || !shape->is_array())
    return refuse(file, tensor.name, "shape is missing or not a list");
  if (shape->get_array().size() > kMaxRank)
    return refuse(file, tensor.name, cat("more than ", kMaxRank, " dimensions"));
  uint64_t bytes = element_bytes;
  for (const json::value& dim : shape->get_array()) {
    const auto size = non_negative(dim);
    if (!size || *size > INT64_MAX) return refuse(file, tensor.name, "a dimension is not a positive integer");
    if (__builtin_mul_overflow(bytes, *size, &bytes)) return refuse(file, tensor.name, "shape overflows");
    tensor.shape.push_back(static_cast<int64_t>(*size));
  }
  return bytes;
}

absl::StatusOr<SafetensorsTensor> read_entry(const std::string& file, std::string_view name,
                                             const json::value& value, std::span<const std::byte> data) {
  if (name.empty() || name.size() > kMaxNameBytes) return refuse(file, name, "the name is empty or too long");
  if (!value.is_object()) return refuse(file, name, "the entry is not an object");
  const json::object& entry = value.get_object();
  SafetensorsTensor tensor;
  tensor.name = std::string(name);
  ASSIGN_OR_RETURN(const StoredType* type, stored_type(file, name, entry));
  tensor.type = type->type;
  tensor.stored_type = std::string(type->name);
  ASSIGN_OR_RETURN(const uint64_t bytes, read_shape(file, entry, type->bytes, tensor));
  const json::value* offsets = entry.if_contains("data_offsets");
  if (offsets == nullptr || !offsets->is_array() || offsets->get_array().size() != 2)
    return refuse(file, name, "data_offsets is not a pair");
  const auto begin = non_negative(offsets->get_array()[0]);
  const auto end = non_negative(offsets->get_array()[1]);
  if (!begin || !end || *begin > *end) return refuse(file, name, "data_offsets are not ascending integers");
  if (*end > data.size())
    return refuse(file, name,
                  cat("data ends at byte ", *end, " of ", data.size(), ": the file is truncated or damaged"));
  if (*end - *begin != bytes)
    return refuse(file, name, cat("shape needs ", bytes, " bytes, data_offsets give ", *end - *begin));
  tensor.data = data.data() + *begin;
  tensor.bytes = bytes;
  return tensor;
}

absl::Status check_cover(const std::string& file, std::span<const SafetensorsTensor> sorted,
                         std::span<const std::byte> data) {
  const std::byte* next = data.data();
  for (const SafetensorsTensor& tensor : sorted) {
    if (tensor.data < next) return refuse(file, tensor.name, "overlaps the tensor before it");
    if (tensor.data > next) return refuse(file, tensor.name, "there is a gap before its data");
    next = tensor.data + tensor.bytes;
  }
  if (next != data.data() + data.size())
    return refuse(file, cat(data.data() + data.size() - next, " bytes after the last tensor"));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<SafetensorsTensor>> parse_safetensors(const std::string& file,
                                                                 std::span<const std::byte> image) {
  uint64_t header_bytes = 0;
  if (image.size() < sizeof(header_bytes)) return refuse(file, "header: the file is shorter than 8 bytes");
  std::memcpy(&header_bytes, image.data(), sizeof(header_bytes));
  if (header_bytes > kMaxHeaderBytes)
    return refuse(file, cat("header: length ", header_bytes, " is over the limit of ", kMaxHeaderBytes));
  if (header_bytes > image.size() - sizeof(header_bytes))
    return refuse(
        file, cat("header: length ", header_bytes, " reaches beyond the file of ", image.size(), " bytes"));
  const std::string_view text(reinterpret_cast<const char*>(image.data()) + sizeof(header_bytes),
                              header_bytes);
  ASSIGN_OR_RETURN(const json::value header, parse_json(cat(file, ": header"), text, 8));
  const auto data = image.subspan(sizeof(header_bytes) + header_bytes);

  std::vector<SafetensorsTensor> tensors;
  tensors.reserve(header.get_object().size());
  for (const auto& entry : header.get_object()) {
    if (entry.key() == "__metadata__") continue;
    const std::string_view name(entry.key().data(), entry.key().size());
    ASSIGN_OR_RETURN(SafetensorsTensor tensor, read_entry(file, name, entry.value(), data));
    tensors.push_back(std::move(tensor));
  }
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    return std::tie(a.data, a.bytes, a.name) < std::tie(b.data, b.bytes, b.name);
  });
  RETURN_IF_ERROR(check_cover(file, tensors, data));
  return tensors;
}

absl::StatusOr<std::unique_ptr<SafetensorsFiles>> SafetensorsFiles::open(const std::string& directory) {
  std::unique_ptr<SafetensorsFiles> files(new SafetensorsFiles());
  const std::string single = directory + "/model.safetensors";
  const std::string index = directory + "/model.safetensors.index.json";
  std::error_code ignored;
  if (std::filesystem::exists(single, ignored)) {
    RETURN_IF_ERROR(files->add_shard(single));
  } else if (std::filesystem::exists(index, ignored)) {
    RETURN_IF_ERROR(files->open_index(directory, index));
  } else {
    return absl::NotFoundError(
        cat(directory, ": neither model.safetensors nor model.safetensors.index.json is there"));
  }
  return files;
}

absl::Status SafetensorsFiles::add_shard(const std::string& path) {
  ASSIGN_OR_RETURN(auto map, MappedFile::open(path));
  ASSIGN_OR_RETURN(auto tensors, parse_safetensors(path, map->bytes()));
  for (SafetensorsTensor& tensor : tensors) {
    const auto [it, fresh] = by_name_.try_emplace(tensor.name, tensors_.size());
    if (!fresh) return refuse(path, tensor.name, cat("is also in ", paths_[file_index_[it->second]]));
    tensors_.push_back(std::move(tensor));
    file_index_.push_back(paths_.size());
  }
  maps_.push_back(std::move(map));
  paths_.push_back(path);
  return absl::OkStatus();
}

absl::Status SafetensorsFiles::open_index(const std::string& directory, const std::string& index_path) {
  ASSIGN_OR_RETURN(const std::string text, read_text_file(index_path, kMaxHeaderBytes));
  ASSIGN_OR_RETURN(const json::value root, parse_json(index_path, text, 8));
  const json::value* map = root.get_object().if_contains("weight_map");
  if (map == nullptr || !map->is_object())
    return refuse(index_path, "weight_map is missing or not an object");
  std::set<std::string> shards;
  for (const auto& entry : map->get_object()) {
    if (!entry.value().is_string()) return refuse(index_path, entry.key(), "the file name is not a string");
    const std::string shard(entry.value().get_string().data(), entry.value().get_string().size());
    // A shard lies beside the index; anything else could name any file of the machine.
    if (shard.empty() || shard.find('/') != std::string::npos || shard.find('\0') != std::string::npos ||
        shard[0] == '.')
      return refuse(index_path, entry.key(), cat("bad file name ", printable(shard)));
    shards.insert(shard);
    if (shards.size() > kMaxShards) return refuse(index_path, "too many shards");
  }
  for (const std::string& shard : shards) RETURN_IF_ERROR(add_shard(directory + "/" + shard));
  for (const auto& entry : map->get_object()) {
    const SafetensorsTensor* tensor = find(std::string_view(entry.key().data(), entry.key().size()));
    if (tensor == nullptr) return refuse(index_path, entry.key(), "is in none of the shards");
    const std::string expected =
        directory + "/" + std::string(entry.value().get_string().data(), entry.value().get_string().size());
    if (const std::string& actual = file_of(tensor - tensors_.data()); actual != expected)
      return refuse(index_path, entry.key(), cat("is in ", actual, ", not in ", expected));
  }
  return absl::OkStatus();
}

const SafetensorsTensor* SafetensorsFiles::find(std::string_view name) const {
  const auto it = by_name_.find(std::string(name));
  return it == by_name_.end() ? nullptr : &tensors_[it->second];
}

size_t SafetensorsFiles::total_bytes() const {
  size_t total = 0;
  for (const auto& map : maps_) total += map->bytes().size();
  return total;
}

}  // namespace baton::worker
