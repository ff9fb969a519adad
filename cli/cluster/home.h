#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "cli/cluster/http_client.h"

namespace baton::cli {

// Where this user's (or this BATON_HOME's) cluster keeps its files. BATON_HOME holds everything below it;
// without it the XDG directories do. One home, one cluster.
struct Home {
  std::string state;  // running cluster: lock, process list, resolved manifest, logs
  std::string cache;  // models

  static Home from_environment();
  std::string file(const std::string& name) const { return state + "/" + name; }
  absl::Status make_directories() const;
  // Logs of the cluster before go to logs.previous, in the place of those of the one before that.
  void set_aside_logs() const;
};

// Holds <state>/lock for the life of a cluster. The kernel drops it with the process, so no stale lock can
// stay.
class HomeLock {
 public:
  // kAlreadyExists when another process has it.
  static absl::StatusOr<HomeLock> take(const Home& home);
  // The file is still there: nobody removed the state folder.
  bool stands(const Home& home) const;
  // Takes it anew after that. kAlreadyExists: another cluster was sooner.
  absl::Status take_again(const Home& home);
  ~HomeLock();
  HomeLock(HomeLock&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  HomeLock& operator=(HomeLock&&) = delete;

 private:
  explicit HomeLock(int fd) : fd_(fd) {}
  int fd_;
};

// In Home::state while a cluster runs, readable by its owner only.
inline constexpr const char* kHashKeyFile = "hash.key";
inline constexpr const char* kLocalKeyFile = "local.key";  // opens a gateway that wants keys

struct ProcessRecord {
  std::string name;
  std::string role;  // supervisor, coordinator, prefill, decode, any
  int pid = 0;
  std::string address;
  int rank = 0;  // of a worker of several processes; the coordinator knows rank 0 only
};

// What `ps`, `down`, `chat` and `bench` need to find the cluster; written by the supervisor, whole file at a
// time.
struct ClusterRecord {
  std::string http_address;  // host:port; empty: the coordinator is on another machine
  std::string certificate;   // that it shows there; empty: plain HTTP
  std::vector<ProcessRecord> processes;

  absl::Status write(const Home& home) const;
  // kNotFound when no cluster runs here; kPermissionDenied when it is another user's.
  static absl::StatusOr<ClusterRecord> read(const Home& home);
  static void remove(const Home& home);  // and the cluster's keys
};

// The server that a user's command talks to: that of `url`, with the key in BATON_API_KEY, or, when it is
// empty, this home's cluster. kNotFound when there is none; kInvalidArgument for a url with another scheme,
// without a host or without a port.
absl::StatusOr<ServerPlace> server_place(const std::string& url);
// This home's own, for commands of the user who runs it.
ServerPlace server_place(const Home& home, const ClusterRecord& record);

// Atomically. `mode` (what the umask leaves of it) is the file's from the start.
absl::Status write_file(const std::string& path, const std::string& text, int mode = 0666);
absl::StatusOr<std::string> read_file(const std::string& path);

// "default" -> the cached default model; anything else as it is. kNotFound says what to do.
absl::StatusOr<std::string> resolve_model(const Home& home, const std::string& source);

}  // namespace baton::cli
