#include "kernels/cuda_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/cat.h"

namespace baton::kernels {
namespace {

namespace fs = std::filesystem;
constexpr const char* kFile = "libbaton_cuda.so";

// Empty when there is none.
std::string library_file() {
  if (const char* named = std::getenv("BATON_CUDA_LIBRARY"); named != nullptr) return named;
  std::error_code none;
  const fs::path folder = fs::read_symlink("/proc/self/exe", none).parent_path();
  for (const fs::path& file : {folder / kFile, folder.parent_path() / "lib" / kFile})
    if (fs::exists(file, none)) return file.string();
  return "";
}

absl::StatusOr<void*> open_library() {
  const std::string file = library_file();
  if (file.empty())
    return absl::UnimplementedError(
        "device cuda: this build has no CUDA kernels (libbaton_cuda.so is not beside the program); "
        "./baton setup --cuda and then BATON_CUDA=on ./baton build make them; device cpu works without");
  void* library = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr)
    return absl::UnavailableError(cat("device cuda: ", ::dlerror(),
                                      " (libcublasLt.so.13 comes with CUDA 13: name its folder in "
                                      "LD_LIBRARY_PATH); device cpu works without"));
  const auto interface = reinterpret_cast<CudaInterface>(::dlsym(library, kCudaInterfaceSymbol));
  if (interface == nullptr || interface() != kCudaInterface)
    return absl::FailedPreconditionError(cat("device cuda: ", file, " belongs to another build of baton"));
  return library;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> load_cuda_backend(const BackendOptions& options,
                                                           const DeviceOptions& device) {
  ASSIGN_OR_RETURN(void* const library, open_library());
  const auto make = reinterpret_cast<MakeCudaBackend>(::dlsym(library, kMakeCudaBackendSymbol));
  if (make == nullptr) return absl::FailedPreconditionError("device cuda: libbaton_cuda.so makes no backend");
  absl::StatusOr<std::unique_ptr<Backend>> backend = absl::UnknownError("not made");
  make(options, device, &backend);
  return backend;
}

absl::StatusOr<std::string> tune_cuda(const TuneRequest& request) {
  ASSIGN_OR_RETURN(void* const library, open_library());
  const auto tune = reinterpret_cast<TuneCuda>(::dlsym(library, kTuneCudaSymbol));
  if (tune == nullptr) return absl::FailedPreconditionError("device cuda: libbaton_cuda.so tunes nothing");
  absl::StatusOr<std::string> table = absl::UnknownError("not made");
  tune(request, &table);
  return table;
}

}  // namespace baton::kernels
