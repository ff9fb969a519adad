#include "base/gguf_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <concepts>
#include <cstring>
#include <limits>
#include <numeric>
#include <type_traits>
#include <utility>

namespace baton {

static_assert(std::endian::native == std::endian::little, "GGUF files are read in place");

namespace {

constexpr uint64_t kMaxTensors = 100'000;
constexpr uint64_t kMaxPairs = 100'000;
constexpr uint32_t kMaxDims = 4;
constexpr uint64_t kMaxKeyBytes = 65'535;  // docs/gguf.md
constexpr uint64_t kMaxNameBytes = 1'024;  // docs/gguf.md says 64; converters have written more
constexpr uint64_t kMaxArrayElements = 1
                                       << 25;  // of all arrays together: an element takes up to 16 bytes here
constexpr uint64_t kDefaultAlignment = 32;
constexpr uint64_t kMaxAlignment = 1 << 20;

// Value types of the file (docs/gguf.md, gguf_metadata_value_type).
enum class Kind : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};
constexpr uint32_t kKinds = 13;

// The least bytes an element of a kind takes in the file; 0 for an array, which has no fixed size.
constexpr uint64_t least_bytes(Kind kind) {
  constexpr uint64_t kBytes[kKinds] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 0, 8, 8, 8};
  return kBytes[static_cast<uint32_t>(kind)];
}

// Debian's Abseil has a string_view of its own, which does not take std::string_view.
void append(std::string& out, std::string_view text) { out += text; }
void append(std::string& out, std::integral auto number) { out += std::to_string(number); }
template <class... Parts>
std::string cat(const Parts&... parts) {
  std::string out;
  (append(out, parts), ...);
  return out;
}

// Names come from the file: printed escaped and cut.
std::string quoted(std::string_view name) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string out = "\"";
  for (const unsigned char c : name.substr(0, 80)) {
    if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\') {
      out += static_cast<char>(c);
    } else {
      out.append("\\x") += kHex[c >> 4];
      out += kHex[c & 15];
    }
  }
  return out + "\"";
}

}  // namespace

// One pass over the mapped bytes. Every read goes through take(), which knows the end of the file; the first
// error ends the parse. `where_` names what is being read, for the message.
class GgufParser {
 public:
  static absl::StatusOr<std::unique_ptr<GgufFile>> parse(std::unique_ptr<GgufFile> file) {
    GgufParser parser(*file);
    RETURN_IF_ERROR(parser.run());
    return file;
  }
  static std::unique_ptr<GgufFile> empty(std::string path) {
    auto file = std::unique_ptr<GgufFile>(new GgufFile());
    file->path_ = std::move(path);
    return file;
  }
  static void own(GgufFile& file, std::string bytes) {
    file.owned_ = std::move(bytes);
    file.map_ = reinterpret_cast<const std::byte*>(file.owned_.data());
    file.map_bytes_ = file.owned_.size();
  }
  static void map(GgufFile& file, const void* address, size_t bytes) {
    file.mapped_ = true;
    file.map_ = static_cast<const std::byte*>(address);
    file.map_bytes_ = bytes;
  }

 private:
  explicit GgufParser(GgufFile& file) : file_(file) {}

  absl::Status run() {
    uint64_t tensors = 0;
    uint64_t pairs = 0;
    RETURN_IF_ERROR(read_header(tensors, pairs));
    file_.values_.reserve(pairs);
    for (uint64_t i = 0; i < pairs; ++i) RETURN_IF_ERROR(read_pair(i));
    RETURN_IF_ERROR(read_alignment());
    file_.tensors_.reserve(tensors);
    offsets_.reserve(tensors);
    for (uint64_t i = 0; i < tensors; ++i) RETURN_IF_ERROR(read_tensor(i));
    return place_tensors();
  }

  absl::Status fail(std::string_view what) const {
    return absl::InvalidArgumentError(cat(file_.path_, ": ", where_, ": ", what));
  }
  uint64_t left() const { return file_.map_bytes_ - at_; }
  absl::Status past_end(uint64_t want, std::string_view what) const {
    return fail(cat(what, " of ", want, " bytes at byte ", at_, " runs past the end of the file (",
                    file_.map_bytes_, " bytes); did it arrive whole?"));
  }

  template <class T>
  absl::Status take(T& value, std::string_view what) {
    if (left() < sizeof(T)) return past_end(sizeof(T), what);
    std::memcpy(&value, file_.map_ + at_, sizeof(T));
    at_ += sizeof(T);
    return absl::OkStatus();
  }
  absl::Status take_string(std::string_view& value, std::string_view what) {
    uint64_t bytes = 0;
    RETURN_IF_ERROR(take(bytes, cat("length of ", what)));
    if (left() < bytes) return past_end(bytes, what);
    value = std::string_view(reinterpret_cast<const char*>(file_.map_ + at_), bytes);
    at_ += bytes;
    return absl::OkStatus();
  }
  absl::Status take_kind(Kind& kind, std::string_view what) {
    uint32_t number = 0;
    RETURN_IF_ERROR(take(number, what));
    if (number >= kKinds) return fail(cat("unknown ", what, " ", number, " (known: 0 to ", kKinds - 1, ")"));
    kind = static_cast<Kind>(number);
    return absl::OkStatus();
  }

  absl::Status read_header(uint64_t& tensors, uint64_t& pairs) {
    where_ = "header";
    char magic[4];
    RETURN_IF_ERROR(take(magic, "magic"));
    if (std::memcmp(magic, "GGUF", 4) != 0)
      return fail(cat("no GGUF file: it starts with ", quoted({magic, 4})));
    uint32_t version = 0;
    RETURN_IF_ERROR(take(version, "version"));
    if (version == 0x02000000 || version == 0x03000000) return fail("a big-endian file; want little-endian");
    if (version != 2 && version != 3) return fail(cat("version ", version, "; want 2 or 3"));
    RETURN_IF_ERROR(take(tensors, "tensor count"));
    RETURN_IF_ERROR(take(pairs, "key count"));
    if (tensors > kMaxTensors) return fail(cat(tensors, " tensors; at most ", kMaxTensors));
    if (pairs > kMaxPairs) return fail(cat(pairs, " keys; at most ", kMaxPairs));
    return absl::OkStatus();
  }

  absl::Status read_pair(uint64_t index) {
    where_ = cat("key ", index);
    std::string_view key;
    RETURN_IF_ERROR(take_string(key, "key"));
    if (key.empty() || key.size() > kMaxKeyBytes)
      return fail(cat("a key of ", key.size(), " bytes; want 1 to ", kMaxKeyBytes));
    where_ = cat("key ", quoted(key));
    Kind kind{};
    RETURN_IF_ERROR(take_kind(kind, "value type"));
    GgufFile::Value value;
    if (kind == Kind::kArray) {
      RETURN_IF_ERROR(read_array(value));
    } else {
      RETURN_IF_ERROR(read_scalar(kind, value));
    }
    if (!file_.values_.emplace(key, std::move(value)).second) return fail("the key stands in the file twice");
    return absl::OkStatus();
  }

  template <class T, class Wide>
  absl::Status read_number(Wide& wide) {
    T value{};
    RETURN_IF_ERROR(take(value, "value"));
    wide = Wide{value};
    return absl::OkStatus();
  }
  absl::Status read_unsigned(Kind kind, uint64_t& value) {
    if (kind == Kind::kU8) return read_number<uint8_t>(value);
    if (kind == Kind::kU16) return read_number<uint16_t>(value);
    if (kind == Kind::kU32) return read_number<uint32_t>(value);
    return read_number<uint64_t>(value);
  }
  absl::Status read_signed(Kind kind, int64_t& value) {
    if (kind == Kind::kI8) return read_number<int8_t>(value);
    if (kind == Kind::kI16) return read_number<int16_t>(value);
    if (kind == Kind::kI32) return read_number<int32_t>(value);
    return read_number<int64_t>(value);
  }
  absl::Status read_bool(bool& value) {
    uint8_t byte = 0;
    RETURN_IF_ERROR(take(byte, "value"));
    if (byte > 1) return fail(cat("a bool of value ", byte, "; want 0 or 1"));
    value = byte == 1;
    return absl::OkStatus();
  }

  static bool is_unsigned(Kind kind) {
    return kind == Kind::kU8 || kind == Kind::kU16 || kind == Kind::kU32 || kind == Kind::kU64;
  }

  absl::Status read_scalar(Kind kind, GgufFile::Value& value) {
    if (kind == Kind::kString) return take_string(value.emplace<std::string_view>(), "string");
    if (kind == Kind::kBool) return read_bool(value.emplace<bool>());
    if (kind == Kind::kF32) return read_number<float>(value.emplace<double>());
    if (kind == Kind::kF64) return read_number<double>(value.emplace<double>());
    if (is_unsigned(kind)) return read_unsigned(kind, value.emplace<uint64_t>());
    return read_signed(kind, value.emplace<int64_t>());
  }

  absl::Status read_array(GgufFile::Value& value) {
    Kind kind{};
    uint64_t count = 0;
    RETURN_IF_ERROR(take_kind(kind, "element type"));
    RETURN_IF_ERROR(take(count, "element count"));
    if (kind == Kind::kArray) return fail("an array of arrays");
    // Before anything is reserved: the elements must be able to lie in the file.
    if (count > left() / least_bytes(kind))
      return fail(cat("an array of ", count, " elements in a file with ", left(),
                      " bytes left; did it arrive whole?"));
    if (count > kMaxArrayElements - elements_)
      return fail(cat("an array of ", count, " elements; at most ", kMaxArrayElements, " in all arrays"));
    elements_ += count;
    auto array = std::make_shared<GgufFile::Array>();
    RETURN_IF_ERROR(read_elements(kind, count, *array));
    value = std::move(array);
    return absl::OkStatus();
  }

  absl::Status read_elements(Kind kind, uint64_t count, GgufFile::Array& array) {
    if (kind == Kind::kString) {
      array.strings.resize(count);
      for (auto& s : array.strings) RETURN_IF_ERROR(take_string(s, "string"));
      return absl::OkStatus();
    }
    if (kind == Kind::kF32 || kind == Kind::kF64) {
      array.floats.resize(count);
      for (auto& f : array.floats)
        RETURN_IF_ERROR(kind == Kind::kF32 ? read_number<float>(f) : read_number<double>(f));
      return absl::OkStatus();
    }
    array.integers.resize(count);
    for (auto& n : array.integers) RETURN_IF_ERROR(read_integer_element(kind, n));
    return absl::OkStatus();
  }

  absl::Status read_integer_element(Kind kind, int64_t& element) {
    if (kind == Kind::kBool) {
      bool value = false;
      RETURN_IF_ERROR(read_bool(value));
      element = value ? 1 : 0;
      return absl::OkStatus();
    }
    if (!is_unsigned(kind)) return read_signed(kind, element);
    uint64_t value = 0;
    RETURN_IF_ERROR(read_unsigned(kind, value));
    if (!std::in_range<int64_t>(value)) return fail(cat("an array element of ", value, "; at most 2^63 - 1"));
    element = static_cast<int64_t>(value);
    return absl::OkStatus();
  }

  absl::Status read_alignment() {
    where_ = "key \"general.alignment\"";
    if (file_.find("general.alignment") == nullptr) return absl::OkStatus();
    const auto value = file_.integer("general.alignment");
    if (!value) return fail("want an integer");
    const auto alignment = static_cast<uint64_t>(*value);
    if (*value < 8 || alignment > kMaxAlignment || !std::has_single_bit(alignment))
      return fail(cat(*value, "; want a power of two from 8 to ", kMaxAlignment));
    alignment_ = alignment;
    return absl::OkStatus();
  }

  absl::Status read_tensor(uint64_t index) {
    where_ = cat("tensor ", index);
    GgufFile::Tensor tensor;
    RETURN_IF_ERROR(take_string(tensor.name, "name"));
    if (tensor.name.empty() || tensor.name.size() > kMaxNameBytes)
      return fail(cat("a name of ", tensor.name.size(), " bytes; want 1 to ", kMaxNameBytes));
    where_ = cat("tensor ", quoted(tensor.name));
    uint64_t elements = 0;
    uint32_t type = 0;
    uint64_t offset = 0;
    RETURN_IF_ERROR(read_dims(tensor.dims, elements));
    RETURN_IF_ERROR(take(type, "type"));
    RETURN_IF_ERROR(take(offset, "offset"));
    const auto traits = dtype_traits(type);
    if (!traits || traits->type == DType::kF8E4M3) return fail(cat("type ", type, " is not supported"));
    tensor.type = traits->type;
    if (tensor.dims[0] % traits->elements != 0)
      return fail(
          cat("rows of ", tensor.dims[0], " elements; ", traits->name, " has blocks of ", traits->elements));
    if (__builtin_mul_overflow(elements / traits->elements, static_cast<uint64_t>(traits->bytes),
                               &tensor.bytes))
      return fail("its size in bytes overflows");
    if (offset % alignment_ != 0) return fail(cat("offset ", offset, " is no multiple of ", alignment_));
    if (!file_.tensor_index_.emplace(tensor.name, file_.tensors_.size()).second)
      return fail("the name stands in the file twice");
    file_.tensors_.push_back(std::move(tensor));
    offsets_.push_back(offset);
    return absl::OkStatus();
  }

  absl::Status read_dims(std::vector<int64_t>& dims, uint64_t& elements) {
    uint32_t count = 0;
    RETURN_IF_ERROR(take(count, "number of dimensions"));
    if (count < 1 || count > kMaxDims) return fail(cat(count, " dimensions; want 1 to ", kMaxDims));
    elements = 1;
    for (uint32_t d = 0; d < count; ++d) {
      uint64_t dim = 0;
      RETURN_IF_ERROR(take(dim, "dimension"));
      if (dim == 0 || !std::in_range<int64_t>(dim)) return fail(cat("dimension ", d, " is ", dim));
      if (__builtin_mul_overflow(elements, dim, &elements) || !std::in_range<int64_t>(elements))
        return fail("its number of elements overflows");
      dims.push_back(static_cast<int64_t>(dim));
    }
    return absl::OkStatus();
  }

  // Offsets count from the data section, which starts at the next multiple of the alignment after the tensor
  // list.
  absl::Status place_tensors() {
    if (file_.tensors_.empty()) return absl::OkStatus();
    where_ = "data section";
    const uint64_t start = (at_ + alignment_ - 1) / alignment_ * alignment_;
    if (start > file_.map_bytes_) return fail(cat("starts at byte ", start, ", past the end of the file"));
    const uint64_t room = file_.map_bytes_ - start;
    for (size_t i = 0; i < file_.tensors_.size(); ++i) {
      auto& tensor = file_.tensors_[i];
      where_ = cat("tensor ", quoted(tensor.name));
      if (offsets_[i] > room || tensor.bytes > room - offsets_[i])
        return fail(cat(tensor.bytes, " bytes at offset ", offsets_[i],
                        " run past the end of the data section (", room, " bytes)"));
      tensor.data = file_.map_ + start + offsets_[i];
    }
    return check_overlaps();
  }

  absl::Status check_overlaps() {
    std::vector<size_t> order(file_.tensors_.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::ranges::sort(order, {}, [&](size_t i) { return offsets_[i]; });
    for (size_t k = 1; k < order.size(); ++k) {
      const auto& before = file_.tensors_[order[k - 1]];
      const auto& after = file_.tensors_[order[k]];
      where_ = cat("tensor ", quoted(after.name));
      if (before.data + before.bytes > after.data) return fail(cat("overlaps tensor ", quoted(before.name)));
    }
    return absl::OkStatus();
  }

  GgufFile& file_;
  std::string where_;
  uint64_t at_ = 0;
  uint64_t elements_ = 0;
  uint64_t alignment_ = kDefaultAlignment;
  std::vector<uint64_t> offsets_;  // of tensors_, from the start of the data section
};

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::open(const std::string& path) {
  const auto failed = [&](const char* what) {
    return absl::Status(absl::ErrnoToStatusCode(errno), cat(path, ": ", what, ": ", std::strerror(errno)));
  };
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return failed("open");
  struct stat st{};
  if (::fstat(fd, &st) != 0) {
    auto status = failed("stat");
    ::close(fd);
    return status;
  }
  if (!S_ISREG(st.st_mode) || st.st_size == 0) {
    ::close(fd);
    return absl::InvalidArgumentError(
        cat(path, ": header: ", S_ISREG(st.st_mode) ? "the file is empty" : "no regular file"));
  }
  const auto bytes = static_cast<size_t>(st.st_size);
  void* address = ::mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
  const auto status = address == MAP_FAILED ? failed("mmap") : absl::OkStatus();
  ::close(fd);
  RETURN_IF_ERROR(status);
  auto file = GgufParser::empty(path);
  GgufParser::map(*file, address, bytes);
  return GgufParser::parse(std::move(file));
}

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::from_bytes(std::string name, std::string bytes) {
  auto file = GgufParser::empty(std::move(name));
  GgufParser::own(*file, std::move(bytes));
  return GgufParser::parse(std::move(file));
}

GgufFile::~GgufFile() {
  if (mapped_) ::munmap(const_cast<std::byte*>(map_), map_bytes_);
}

const GgufFile::Value* GgufFile::find(std::string_view key) const {
  const auto it = values_.find(key);
  return it == values_.end() ? nullptr : &it->second;
}

std::optional<int64_t> GgufFile::integer(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* i = std::get_if<int64_t>(value)) return *i;
  if (const auto* u = std::get_if<uint64_t>(value); u != nullptr && std::in_range<int64_t>(*u))
    return static_cast<int64_t>(*u);
  return std::nullopt;
}

std::optional<double> GgufFile::number(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* d = std::get_if<double>(value)) return *d;
  if (const auto i = integer(key)) return static_cast<double>(*i);
  return std::nullopt;
}

std::optional<bool> GgufFile::boolean(std::string_view key) const {
  const Value* value = find(key);
  const auto* b = value == nullptr ? nullptr : std::get_if<bool>(value);
  return b == nullptr ? std::nullopt : std::optional(*b);
}

std::optional<std::string_view> GgufFile::string(std::string_view key) const {
  const Value* value = find(key);
  const auto* s = value == nullptr ? nullptr : std::get_if<std::string_view>(value);
  return s == nullptr ? std::nullopt : std::optional(*s);
}

const GgufFile::Array* GgufFile::array(std::string_view key) const {
  const Value* value = find(key);
  const auto* a = value == nullptr ? nullptr : std::get_if<std::shared_ptr<Array>>(value);
  return a == nullptr ? nullptr : a->get();
}

const GgufFile::Tensor* GgufFile::tensor(std::string_view name) const {
  const auto it = tensor_index_.find(name);
  return it == tensor_index_.end() ? nullptr : &tensors_[it->second];
}

}  // namespace baton
