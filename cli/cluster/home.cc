#include "cli/cluster/home.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

#include "base/cat.h"
#include "cli/cluster/host_address.h"

namespace baton::cli {
namespace {

constexpr const char* kDefaultModelFile = "SmolLM2-135M-Instruct.Q4_1.gguf";

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

std::string absolute(const std::string& path) {
  return std::filesystem::absolute(path).lexically_normal().string();
}

}  // namespace

Home Home::from_environment() {
  Home home;
  if (const std::string own = environment("BATON_HOME"); !own.empty()) {
    home.state = absolute(own + "/state");
    home.cache = absolute(own + "/cache");
    return home;
  }
  const std::string user = environment("HOME").empty() ? "/tmp" : environment("HOME");
  const std::string state = environment("XDG_STATE_HOME"), cache = environment("XDG_CACHE_HOME");
  home.state = (state.empty() ? user + "/.local/state" : state) + "/baton";
  home.cache = (cache.empty() ? user + "/.cache" : cache) + "/baton";
  return home;
}

absl::Status Home::make_directories() const {
  for (const std::string& dir : {state, file("logs"), cache + "/models"}) {
    std::error_code error;
    std::filesystem::create_directories(dir, error);
    if (error)
      return absl::PermissionDeniedError(
          cat(dir, ": cannot be made: ", error.message(), "; set BATON_HOME to a folder you may write"));
  }
  return absl::OkStatus();
}

void Home::set_aside_logs() const {
  std::error_code ignored;  // then new lines follow the old ones
  std::filesystem::remove_all(file("logs.previous"), ignored);
  std::filesystem::rename(file("logs"), file("logs.previous"), ignored);
  std::filesystem::create_directories(file("logs"), ignored);
}

absl::StatusOr<HomeLock> HomeLock::take(const Home& home) {
  const std::string path = home.file("lock");
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0)
    return absl::PermissionDeniedError(
        cat(path, ": ", std::strerror(errno), "; set BATON_HOME to a folder you may write"));
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    ::close(fd);
    const auto record = ClusterRecord::read(home);
    return absl::AlreadyExistsError(cat("a cluster already runs from ", home.state,
                                        record.ok() ? cat(" (", server_place(home, *record).url(), ", pid ",
                                                          record->processes.front().pid, ")")
                                                    : "",
                                        "; `baton down` stops it, or set BATON_HOME to another folder"));
  }
  return HomeLock(fd);
}

bool HomeLock::stands(const Home& home) const {
  struct stat mine{}, there{};
  return ::fstat(fd_, &mine) == 0 && ::stat(home.file("lock").c_str(), &there) == 0 &&
         mine.st_ino == there.st_ino && mine.st_dev == there.st_dev;
}

absl::Status HomeLock::take_again(const Home& home) {
  ASSIGN_OR_RETURN(HomeLock fresh, take(home));
  std::swap(fd_, fresh.fd_);
  return absl::OkStatus();
}

HomeLock::~HomeLock() {
  if (fd_ >= 0) ::close(fd_);
}

namespace {

// What `serve` prints, with or without the scheme and a path; https:// has a port of its own.
absl::StatusOr<ServerPlace> place_in_url(std::string_view url) {
  const auto refused = [&] {
    return absl::InvalidArgumentError(cat("--url ", url, ": want http://HOST:PORT or https://HOST[:PORT]"));
  };
  const bool tls = url.starts_with("https://");
  std::string_view rest = url;
  if (const size_t scheme = url.find("://"); scheme != std::string_view::npos) {
    if (!tls && !url.starts_with("http://")) return refused();
    rest.remove_prefix(scheme + 3);
  }
  std::string address(rest.substr(0, rest.find_first_of("/?#")));
  const bool has_port = address.find(':', address.rfind(']') + 1) != address.npos;
  if (tls && !has_port && !address.empty()) address += ":443";
  const auto at = split_host_port(address);
  if (!at || at->host.empty() || at->port == 0 || address.find('@') != address.npos) return refused();
  return ServerPlace{.address = std::move(address), .tls = tls};
}

}  // namespace

absl::StatusOr<ServerPlace> server_place(const std::string& url) {
  if (!url.empty()) {
    ASSIGN_OR_RETURN(ServerPlace server, place_in_url(url));
    server.key = environment("BATON_API_KEY");
    return server;
  }
  const Home home = Home::from_environment();
  ASSIGN_OR_RETURN(const ClusterRecord record, ClusterRecord::read(home));
  if (record.http_address.empty())
    return absl::NotFoundError("the coordinator of this cluster is on another machine: --url HOST:PORT");
  return server_place(home, record);
}

ServerPlace server_place(const Home& home, const ClusterRecord& record) {
  return {.address = record.http_address,
          .key = read_file(home.file(kLocalKeyFile)).value_or(""),
          .tls = !record.certificate.empty(),
          .certificate = record.certificate};
}

namespace {

// A new file with all of `text`.
bool write_new(const std::string& path, std::string_view text, int mode) {
  ::unlink(path.c_str());
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
  if (fd < 0) return false;
  ssize_t n = 0;
  while (!text.empty() && (n = ::write(fd, text.data(), text.size())) >= 0)
    text.remove_prefix(static_cast<size_t>(n));
  const int why = errno;
  const bool closed = ::close(fd) == 0;
  if (!text.empty()) errno = why;
  return text.empty() && closed;
}

}  // namespace

absl::Status write_file(const std::string& path, const std::string& text, int mode) {
  const std::string part = cat(path, ".", ::getpid(), ".part");
  if (write_new(part, text, mode) && ::rename(part.c_str(), path.c_str()) == 0) return absl::OkStatus();
  const std::string why = std::strerror(errno);
  ::unlink(part.c_str());
  return absl::ResourceExhaustedError(cat(path, ": cannot be written: ", why));
}

absl::StatusOr<std::string> read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(cat(path, ": ", std::strerror(errno)));
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

absl::Status ClusterRecord::write(const Home& home) const {
  boost::json::array list;
  for (const ProcessRecord& p : processes)
    list.push_back(
        {{"name", p.name}, {"role", p.role}, {"pid", p.pid}, {"address", p.address}, {"rank", p.rank}});
  return write_file(home.file("cluster.json"),
                    boost::json::serialize(boost::json::object{
                        {"http_address", http_address}, {"certificate", certificate}, {"processes", list}}));
}

absl::StatusOr<ClusterRecord> ClusterRecord::read(const Home& home) {
  const std::string path = home.file("cluster.json");
  if (::access(path.c_str(), R_OK) != 0 && errno == EACCES)
    return absl::PermissionDeniedError(cat(path, ": another user's: ", std::strerror(errno)));
  auto text = read_file(path);
  if (!text.ok())
    return absl::NotFoundError(cat("no cluster runs from ", home.state, "; `baton serve` starts one"));
  boost::system::error_code error;
  const boost::json::value v = boost::json::parse(*text, error);
  const auto damaged = [&] { return absl::DataLossError(cat(path, ": damaged; remove it")); };
  if (error || !v.is_object() || !v.as_object().contains("processes")) return damaged();
  try {
    ClusterRecord record;
    record.http_address = boost::json::value_to<std::string>(v.at("http_address"));
    record.certificate = boost::json::value_to<std::string>(v.at("certificate"));
    for (const auto& p : v.at("processes").as_array())
      record.processes.push_back(
          {boost::json::value_to<std::string>(p.at("name")), boost::json::value_to<std::string>(p.at("role")),
           boost::json::value_to<int>(p.at("pid")), boost::json::value_to<std::string>(p.at("address")),
           p.as_object().contains("rank") ? boost::json::value_to<int>(p.at("rank")) : 0});
    if (record.processes.empty()) return damaged();
    return record;
  } catch (const std::exception&) {  // boost::json::at and value_to throw on another shape
    return damaged();
  }
}

void ClusterRecord::remove(const Home& home) {
  ::unlink(home.file("cluster.json").c_str());
  ::unlink(home.file(kHashKeyFile).c_str());
  ::unlink(home.file(kLocalKeyFile).c_str());
}

absl::StatusOr<std::string> resolve_model(const Home& home, const std::string& source) {
  if (source != "default") {
    if (!std::filesystem::exists(source))
      return absl::NotFoundError(
          cat(source, ": no such model; want a GGUF file or a Hugging Face directory"));
    return absolute(source);
  }
  const std::string path = cat(home.cache, "/models/", kDefaultModelFile);
  if (std::filesystem::exists(path)) return path;
  return absl::NotFoundError(cat(
      "the default model is not at ", path,
      "; run ./baton serve from a checkout with a network (it gets the file), put the file there, or name a "
      "model: baton serve /path/to/model.gguf"));
}

}  // namespace baton::cli
