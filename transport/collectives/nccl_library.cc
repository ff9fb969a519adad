// The only file with NCCL's own words. Compiled where nccl.h is; the library itself is opened at run time.
#include "transport/collectives/nccl_library.h"

#include <dlfcn.h>
#include <nccl.h>

#include <cstring>

#include "base/cat.h"

namespace baton {
namespace {

constexpr int kOldest = 21800;
static_assert(sizeof(NcclId) == sizeof(ncclUniqueId));

struct Calls {
  decltype(&ncclGetVersion) get_version = nullptr;
  decltype(&ncclGetUniqueId) get_unique_id = nullptr;
  decltype(&ncclCommInitRankConfig) init = nullptr;
  decltype(&ncclCommGetAsyncError) async_error = nullptr;
  decltype(&ncclCommAbort) abort = nullptr;
  decltype(&ncclGetLastError) last_error = nullptr;
  decltype(&ncclAllReduce) all_reduce = nullptr;
  decltype(&ncclAllGather) all_gather = nullptr;
  decltype(&ncclBroadcast) broadcast = nullptr;
  decltype(&ncclSend) send = nullptr;
  decltype(&ncclRecv) receive = nullptr;
};

template <class Function>
absl::Status find(void* library, const char* name, Function& out) {
  out = reinterpret_cast<Function>(::dlsym(library, name));
  return out != nullptr ? absl::OkStatus()
                        : absl::UnavailableError(cat("lane nccl: libnccl.so.2 has no ", name));
}

absl::StatusOr<Calls> find_calls(void* library) {
  Calls c;
  RETURN_IF_ERROR(find(library, "ncclGetVersion", c.get_version));
  RETURN_IF_ERROR(find(library, "ncclGetUniqueId", c.get_unique_id));
  RETURN_IF_ERROR(find(library, "ncclCommInitRankConfig", c.init));
  RETURN_IF_ERROR(find(library, "ncclCommGetAsyncError", c.async_error));
  RETURN_IF_ERROR(find(library, "ncclCommAbort", c.abort));
  RETURN_IF_ERROR(find(library, "ncclGetLastError", c.last_error));
  RETURN_IF_ERROR(find(library, "ncclAllReduce", c.all_reduce));
  RETURN_IF_ERROR(find(library, "ncclAllGather", c.all_gather));
  RETURN_IF_ERROR(find(library, "ncclBroadcast", c.broadcast));
  RETURN_IF_ERROR(find(library, "ncclSend", c.send));
  RETURN_IF_ERROR(find(library, "ncclRecv", c.receive));
  return c;
}

ncclComm_t comm(void* handle) { return static_cast<ncclComm_t>(handle); }
cudaStream_t queue(void* stream) { return static_cast<cudaStream_t>(stream); }

class LoadedNccl final : public NcclLibrary {
 public:
  LoadedNccl(const Calls& calls, int version) : calls_(calls), version_(version) {}

  std::string version() const override {
    return cat(version_ / 10000, ".", version_ / 100 % 100, ".", version_ % 100);
  }
  Answer new_id(NcclId& id) override {
    ncclUniqueId drawn;
    const Answer a = answer(calls_.get_unique_id(&drawn));
    std::memcpy(id.data(), &drawn, sizeof drawn);
    return a;
  }
  Answer begin(int ranks, const NcclId& id, int rank, Handle* communicator) override {
    ncclUniqueId drawn;
    std::memcpy(&drawn, id.data(), sizeof drawn);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclComm_t made = nullptr;
    const Answer a = answer(calls_.init(&made, ranks, drawn, rank, &config));
    *communicator = made;
    return a;
  }
  Answer state(Handle c) override {
    ncclResult_t result = ncclSuccess;
    const ncclResult_t asked = calls_.async_error(comm(c), &result);
    return answer(asked != ncclSuccess ? asked : result);
  }
  void abort(Handle c) override { calls_.abort(comm(c)); }
  std::string last_error(Handle c) const override {
    const char* text = calls_.last_error(comm(c));
    return text == nullptr ? "" : text;
  }
  Answer all_reduce(Handle c, float* values, size_t floats, Stream s) override {
    return answer(calls_.all_reduce(values, values, floats, ncclFloat32, ncclSum, comm(c), queue(s)));
  }
  Answer all_gather(Handle c, const std::byte* mine, std::byte* all, size_t bytes, Stream s) override {
    return answer(calls_.all_gather(mine, all, bytes, ncclUint8, comm(c), queue(s)));
  }
  Answer broadcast(Handle c, int root, std::byte* values, size_t bytes, Stream s) override {
    return answer(calls_.broadcast(values, values, bytes, ncclUint8, root, comm(c), queue(s)));
  }
  Answer send(Handle c, int to, const std::byte* values, size_t bytes, Stream s) override {
    return answer(calls_.send(values, bytes, ncclUint8, to, comm(c), queue(s)));
  }
  Answer receive(Handle c, int from, std::byte* values, size_t bytes, Stream s) override {
    return answer(calls_.receive(values, bytes, ncclUint8, from, comm(c), queue(s)));
  }

 private:
  static Answer answer(ncclResult_t result) {
    switch (result) {
      case ncclSuccess:
        return Answer::kDone;
      case ncclInProgress:
        return Answer::kInProgress;
      case ncclRemoteError:
        return Answer::kRemote;
      default:
        return Answer::kFailed;
    }
  }

  const Calls calls_;
  const int version_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<NcclLibrary>> load_nccl() {
  void* library = ::dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr)
    return absl::UnavailableError(
        cat("lane nccl: ", ::dlerror(),
            " (it comes with CUDA's Python packages and ./baton setup --cuda: name its "
            "folder in LD_LIBRARY_PATH)"));
  ASSIGN_OR_RETURN(const Calls calls, find_calls(library));
  int version = 0;
  if (calls.get_version(&version) != ncclSuccess || version < kOldest)
    return absl::UnavailableError(
        cat("lane nccl: libnccl.so.2 is version ", version, ", want ", kOldest, " (2.18.0) or newer"));
  return std::make_unique<LoadedNccl>(calls, version);
}

}  // namespace baton
