#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "base/status.h"

namespace baton::worker {

// A file mapped read-only, whole. The bytes live as long as this object.
// Thread: any. Errors: "path: what" (kNotFound, kInvalidArgument for something that is no regular file).
class MappedFile {
 public:
  static absl::StatusOr<std::unique_ptr<MappedFile>> open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  MappedFile(const std::byte* data, size_t size) : data_(data), size_(size) {}
  const std::byte* data_;
  size_t size_;
};

// The whole pages of `bytes`, which lie in a mapped file, leave this process; reading them again is allowed
// and takes them from the page cache or the disk.
void release_mapped_pages(std::span<const std::byte> bytes);

// The whole file as text, refused beyond `limit` bytes: for configuration files.
absl::StatusOr<std::string> read_text_file(const std::string& path, size_t limit);

}  // namespace baton::worker
