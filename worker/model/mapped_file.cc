#include "worker/model/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/cat.h"

namespace baton::worker {

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return absl::NotFoundError(cat(path, ": cannot open: ", std::strerror(errno)));
  struct stat stat{};
  if (::fstat(fd, &stat) != 0 || !S_ISREG(stat.st_mode)) {
    ::close(fd);
    return absl::InvalidArgumentError(cat(path, ": not a regular file"));
  }
  const size_t size = static_cast<size_t>(stat.st_size);
  if (size == 0) {
    ::close(fd);
    return absl::InvalidArgumentError(cat(path, ": the file is empty"));
  }
  void* map = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  const int error = errno;
  ::close(fd);
  if (map == MAP_FAILED) return absl::InternalError(cat(path, ": cannot map: ", std::strerror(error)));
  return std::unique_ptr<MappedFile>(new MappedFile(static_cast<const std::byte*>(map), size));
}

MappedFile::~MappedFile() { ::munmap(const_cast<std::byte*>(data_), size_); }

void release_mapped_pages(std::span<const std::byte> bytes) {
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto start = reinterpret_cast<uintptr_t>(bytes.data());
  const uintptr_t first = (start + page - 1) / page * page, end = (start + bytes.size()) / page * page;
  if (first < end) ::madvise(reinterpret_cast<void*>(first), end - first, MADV_DONTNEED);
}

absl::StatusOr<std::string> read_text_file(const std::string& path, size_t limit) {
  ASSIGN_OR_RETURN(const auto file, MappedFile::open(path));
  const auto bytes = file->bytes();
  if (bytes.size() > limit)
    return absl::InvalidArgumentError(
        cat(path, ": ", bytes.size(), " bytes, more than the limit of ", limit));
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

}  // namespace baton::worker
