// ps, logs: looking at a running cluster.
#include <signal.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>

#include "base/cat.h"
#include "base/units.h"
#include "cli/cluster/home.h"
#include "cli/cluster/http_client.h"
#include "cli/cluster/memory_plan.h"
#include "cli/commands.h"

namespace baton::cli {
namespace {

namespace json = boost::json;

std::string text_of(const json::object& o, const char* key) {
  const auto* v = o.if_contains(key);
  return v && v->is_string() ? std::string(v->as_string()) : "";
}

int64_t number_of(const json::object& o, const char* key) {
  const auto* v = o.if_contains(key);
  return v && v->is_number() ? v->to_number<int64_t>() : 0;
}

using Workers = std::map<std::string, json::object>;

// The coordinator's view of its workers by name.
absl::StatusOr<Workers> workers_of(const ServerPlace& server) {
  Workers out;
  const std::string& address = server.address;
  if (address.empty()) return out;  // the coordinator is on another machine
  HttpClient client(server, std::chrono::seconds(2));
  ASSIGN_OR_RETURN(const HttpReply reply, client.get("/admin/v1/workers"));
  if (reply.status == 401)
    return absl::PermissionDeniedError(
        cat(address, ": wants the key of an operator: BATON_API_KEY=KEY baton ps --url ", server.url()));
  if (reply.status == 403 && !server.key.empty())
    return absl::PermissionDeniedError(cat(address, ": BATON_API_KEY is not the key of an operator"));
  if (reply.status == 403)
    return absl::PermissionDeniedError(
        cat(address,
            ": tells this to its own machine only; from others ask the address of the manifest's "
            "gateway.admin"));
  if (reply.status == 400 && !reply.body.starts_with('{'))  // plain words to who speaks plainly
    return absl::UnavailableError(cat(address, ": ", reply.body));
  boost::system::error_code error;
  const json::value list = json::parse(reply.body, error);
  if (reply.status != 200 || error || !list.is_array())
    return absl::UnavailableError(
        cat(address, ": no coordinator answers there (status ", reply.status, " to /admin/v1/workers)"));
  for (const auto& w : list.as_array())
    if (w.is_object()) out[text_of(w.as_object(), "name")] = w.as_object();
  return out;
}

constexpr const char* kShownOfWorkers[] = {"state",           "address", "data_address", "links",
                                           "metrics_address", "device",  "kv_blocks",    "transfers_open",
                                           "running",         "waiting"};

// `name{rank="1",end="sent"} 5` of a worker's metrics, by rank, all ends together.
std::map<int, double> by_rank(const std::string& metrics, const std::string& name) {
  std::map<int, double> out;
  const std::string head = name + "{";
  std::istringstream lines(metrics);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(head)) continue;
    const size_t rank = line.find("rank=\""), value = line.rfind(' ');
    if (rank == line.npos || value == line.npos) continue;
    out[std::atoi(line.c_str() + rank + 6)] += std::atof(line.c_str() + value);
  }
  return out;
}

// What rank 0 of a group says of its ranks; of itself too. Empty for a worker of one rank, or one whose
// metrics are not to be had from here.
std::map<int, json::object> ranks_of(const json::object& worker) {
  std::map<int, json::object> out;
  const std::string address = text_of(worker, "metrics_address");
  if (address.empty() || text_of(worker, "device").find(" ranks over ") == std::string::npos) return out;
  const auto reply = HttpClient(address, std::chrono::seconds(1)).get("/metrics");
  if (!reply.ok() || reply->status != 200) return out;
  for (const auto& [key, name] : {std::pair{"steps", "baton_rank_steps_total"},
                                  {"kv_streams", "baton_rank_kv_streams_total"},
                                  {"kv_received_bytes", "baton_rank_kv_received_bytes_total"}})
    for (const auto& [rank, value] : by_rank(reply->body, name)) out[rank][key] = static_cast<int64_t>(value);
  return out;
}

// Workers that joined from elsewhere: no process of this machine's supervisor.
json::array remote_workers(const std::map<std::string, json::object>& workers, const ClusterRecord& record) {
  json::array out;
  for (const auto& [name, worker] : workers) {
    if (std::ranges::find(record.processes, name, &ProcessRecord::name) != record.processes.end()) continue;
    json::object row{{"name", name}, {"role", text_of(worker, "role")}, {"pid", number_of(worker, "pid")}};
    for (const char* key : kShownOfWorkers)
      if (const auto* v = worker.if_contains(key)) row[key] = *v;
    row["remote"] = true;
    out.push_back(std::move(row));
  }
  return out;
}

// Not one that ended and waits for its parent to take notice (in a container without an init nobody does).
bool is_alive(int pid) {
  if (pid <= 0 || (::kill(pid, 0) != 0 && errno != EPERM)) return false;
  const auto stat = read_file(cat("/proc/", pid, "/stat"));  // pid (name) state ...
  if (!stat.ok()) return false;
  const size_t name_end = stat->rfind(") ");
  return name_end == std::string::npos || stat->substr(name_end + 2, 1) != "Z";
}

json::array process_list(const Home& home, const ClusterRecord& record, const ServerPlace& server,
                         const Workers& workers) {
  const bool elsewhere = record.http_address.empty();
  const bool coordinator_answers = !elsewhere && [&] {
    const auto reply = HttpClient(server, std::chrono::seconds(2)).get("/live");
    return reply.ok() && reply->status == 200;
  }();
  std::map<std::string, std::map<int, json::object>> groups;  // by worker
  for (const auto& [name, worker] : workers) groups[name] = ranks_of(worker);
  json::array out;
  for (const ProcessRecord& p : record.processes) {
    json::object row{
        {"name", p.name}, {"role", p.role}, {"pid", p.pid}, {"state", "down"}, {"address", p.address}};
    const bool alive = is_alive(p.pid);
    if (p.role == "supervisor") row["state"] = alive ? "ready" : "down";
    if (p.role == "coordinator") row["state"] = coordinator_answers ? "ready" : alive ? "starting" : "down";
    if (const auto w = workers.find(p.name); w != workers.end()) {
      for (const char* key : kShownOfWorkers)
        if (const auto* v = w->second.if_contains(key)) row[key] = *v;
      if (!groups[p.name].empty()) row["counters"] = groups[p.name][0];
    } else if (p.rank > 0) {  // its worker's rank 0 speaks for it
      const std::string worker = p.name.substr(0, p.name.rfind('.'));
      const auto zero = workers.find(worker);
      if (zero != workers.end() && !groups[worker].empty()) row["counters"] = groups[worker][p.rank];
      row["rank"] = p.rank;
      row["state"] = !alive                  ? "down"
                     : zero == workers.end() ? "starting"
                                             : text_of(zero->second, "state").c_str();
    } else if (p.role != "supervisor" && p.role != "coordinator") {
      row["state"] = !alive ? "down" : elsewhere ? "running" : "starting";
      row["kv_blocks"] = json::object{{"total", 0}, {"free", 0}, {"cached", 0}, {"active", 0}};
      row["transfers_open"] = 0;
    }
    if (const auto plan = read_file(home.file(memory_plan_file(p.name))); plan.ok()) row["memory"] = *plan;
    out.push_back(std::move(row));
  }
  for (auto& row : remote_workers(workers, record)) out.push_back(std::move(row));
  return out;
}

// "socket to decode-0 (3.1 GB/s); down to decode-1: no route"
std::string links_text(const json::object& worker) {
  const auto* links = worker.if_contains("links");
  std::string out;
  if (links == nullptr || !links->is_array()) return out;
  for (const auto& value : links->as_array()) {
    const json::object& link = value.as_object();
    const std::string state = text_of(link, "state");
    const double rate = link.at("bytes_per_second").to_number<double>();
    char speed[32];
    std::snprintf(speed, sizeof speed, " (%.1f GB/s)", rate / 1e9);
    out += cat(out.empty() ? "" : "; ", state == "up" ? text_of(link, "lane") : state, " to ",
               text_of(link, "peer"), state == "up" && rate > 0 ? speed : "");
    if (const std::string why = text_of(link, "error"); !why.empty()) out += cat(": ", why);
  }
  return out;
}

// "step 1204, 96 KV streams, 21.5 MiB in"
std::string rank_text(const json::object& counters) {
  return cat("step ", number_of(counters, "steps"), ", ", number_of(counters, "kv_streams"), " KV streams, ",
             format_bytes(static_cast<uint64_t>(number_of(counters, "kv_received_bytes"))), " in");
}

void print_table(const json::array& rows) {
  std::printf("%-14s %-12s %8s  %-9s %-22s %s\n", "NAME", "ROLE", "PID", "STATE", "ADDRESS",
              "KV BLOCKS (active/cached/total), TRANSFERS, DEVICE; RANK; LANES");
  for (const auto& value : rows) {
    const json::object& r = value.as_object();
    std::string detail;
    if (const auto* kv = r.if_contains("kv_blocks"); kv && kv->is_object())
      detail = cat(number_of(kv->as_object(), "active"), "/", number_of(kv->as_object(), "cached"), "/",
                   number_of(kv->as_object(), "total"), ", ", number_of(r, "transfers_open"), ", ",
                   text_of(r, "device"));
    if (const auto* counters = r.if_contains("counters"))
      detail += cat(detail.empty() ? "" : "; ", rank_text(counters->as_object()));
    if (const std::string links = links_text(r); !links.empty()) detail += cat("; KV: ", links);
    std::printf("%-14s %-12s %8lld  %-9s %-22s %s\n", text_of(r, "name").c_str(), text_of(r, "role").c_str(),
                static_cast<long long>(number_of(r, "pid")), text_of(r, "state").c_str(),
                text_of(r, "address").c_str(), detail.c_str());
  }
}

}  // namespace

int run_ps(const PsOptions& options) {
  const Home home = Home::from_environment();
  absl::StatusOr<ClusterRecord> record = ClusterRecord::read(home);
  ServerPlace server;
  if (!options.url.empty()) {
    auto named = server_place(options.url);
    record = named.ok() ? absl::StatusOr<ClusterRecord>(ClusterRecord{.http_address = named->address})
                        : absl::StatusOr<ClusterRecord>(named.status());
    if (named.ok()) server = *std::move(named);
  } else if (record.ok()) {
    server = server_place(home, *record);
  }
  if (!record.ok()) {
    if (options.json && absl::IsNotFound(record.status())) {
      std::puts("[]");
      return kExitOk;
    }
    std::fprintf(stderr, "baton: %s\n", std::string(record.status().message()).c_str());
    return absl::IsInvalidArgument(record.status()) ? kExitUsage : kExitFailed;
  }
  const absl::StatusOr<Workers> workers = workers_of(server);
  if (!workers.ok() && !options.url.empty()) {  // of this machine's processes there is more to say
    std::fprintf(stderr, "baton: %s\n", std::string(workers.status().message()).c_str());
    return kExitFailed;
  }
  const json::array rows = process_list(home, *record, server, workers.value_or(Workers()));
  if (options.json) {
    std::printf("%s\n", json::serialize(rows).c_str());
  } else {
    print_table(rows);
  }
  return kExitOk;
}

int run_logs(const LogsOptions& options) {
  const Home home = Home::from_environment();
  bool any = false;
  std::vector<std::string> lines;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(home.file("logs"), error)) {
    const std::string name = entry.path().stem().string();
    if (entry.path().extension() != ".log" || (!options.process.empty() && name != options.process)) continue;
    any = true;
    std::ifstream in(entry.path());
    std::deque<std::string> last;
    for (std::string line; std::getline(in, line);) {
      last.push_back(std::move(line));
      if (last.size() > static_cast<size_t>(options.lines)) last.pop_front();
    }
    std::ranges::move(last, std::back_inserter(lines));
  }
  if (!any) {
    std::fprintf(stderr, "baton: no log of %s in %s\n",
                 options.process.empty() ? "any process" : options.process.c_str(),
                 home.file("logs").c_str());
    return kExitFailed;
  }
  // A line starts with its time: {"ts":"2026-01-31T12:00:00.000Z", ...
  constexpr size_t kTime = sizeof(R"({"ts":"2026-01-31T12:00:00.000Z")") - 1;
  std::ranges::stable_sort(lines, {}, [](const std::string& line) { return line.substr(0, kTime); });
  for (const std::string& line : lines) std::printf("%s\n", line.c_str());
  return kExitOk;
}

}  // namespace baton::cli
