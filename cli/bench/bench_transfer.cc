// bench transfer: how fast KV pieces move between two processes, against memcpy and a raw socket of the same
// run.
#include "cli/bench/bench_transfer.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>
#include <functional>
#include <iterator>
#include <map>
#include <memory>

#include "base/cat.h"
#include "cli/bench/bench_certificate.h"
#include "cli/bench/remote_receiver.h"
#include "cli/bench/transfer_baselines.h"
#include "cli/bench/transfer_lane.h"
#include "cli/cluster/cores.h"
#include "cli/cluster/version.h"
#include "transport/data/data_plane.h"
#include "transport/data/socket_address.h"

namespace baton::cli {
namespace {

namespace json = boost::json;

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::ranges::nth_element(values, values.begin() + std::ssize(values) / 2);
  return values[values.size() / 2];
}

// One pair of processes and what was measured with it, by size of piece.
struct Subject {
  std::string name;
  std::unique_ptr<MeasuredPair> pair;
  std::map<uint64_t, std::vector<double>> seconds, cpu;
};

class Bench {
 public:
  Bench(const BenchTransferOptions& options, TransferBenchReport& report)
      : options_(options), report_(report) {}

  // To where the receivers are.
  absl::Status connect() {
    if (options_.to.empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(remote_, RemoteReceivers::connect(options_.to));
    sender_host_ = remote_->own_host();
    receiver_host_ = remote_->host();
    return absl::OkStatus();
  }
  // One process does both.
  absl::Status copy_baseline(const std::string& name, const MovePair& pair) {
    ASSIGN_OR_RETURN(auto receiver, fork_receiver(pair, receiver_place()));
    return baseline(name, pair, std::move(receiver));
  }
  absl::Status socket_baseline() {
    const ReceiverOrder order{.kind = "rawsocket", .pool_bytes = options_.pool_bytes};
    const MovePair pair = raw_socket_pair(options_.pool_bytes, receiver_host_);
    ASSIGN_OR_RETURN(auto receiver, start_receiver(order, pair));
    return baseline(order.kind, pair, std::move(receiver));
  }
  absl::Status baseline(const std::string& name, const MovePair& pair,
                        std::unique_ptr<MoveReceiver> receiver) {
    ASSIGN_OR_RETURN(Subject & subject, start(name, pair, std::move(receiver)));
    for (const uint64_t piece : options_.pieces) RETURN_IF_ERROR(repeat({&subject}, piece));
    return absl::OkStatus();
  }
  // The lane with checksums and, where it goes without, without; each repetition beside its baseline.
  absl::Status measure_lane(const std::string& name, const std::string& baseline) {
    const auto plain_name = name + " without checksums";
    LaneOptions lane{
        .lane = name, .pool_bytes = options_.pool_bytes, .sender = sender_host_, .receiver = receiver_host_};
    if (name == "socket-tls") {
      RETURN_IF_ERROR(certificate_.make());
      lane.tls = certificate_.security();
    }
    ASSIGN_OR_RETURN(Subject & with, start_lane(name, lane));
    Subject* without = nullptr;
    if (goes_without_checksums(name)) {
      lane.checksum = false;
      ASSIGN_OR_RETURN(Subject & plain, start_lane(plain_name, lane));
      without = &plain;
    }
    Subject& base = subjects_.at(baseline);
    std::vector<Subject*> in_turn{&base, &with};
    if (without != nullptr) in_turn.push_back(without);
    for (const uint64_t piece : options_.pieces) {
      const size_t first = base.seconds[piece].size();
      RETURN_IF_ERROR(repeat(in_turn, piece));
      TransferRow row = row_of(with, piece);
      row.baseline = baseline;
      std::vector<double> shares, costs;
      for (size_t i = 0; i < with.seconds[piece].size(); ++i) {
        shares.push_back(base.seconds[piece][first + i] / with.seconds[piece][i]);
        if (without != nullptr) costs.push_back(with.seconds[piece][i] / without->seconds[piece][i] - 1);
      }
      row.of_baseline = median(shares);
      if (without != nullptr) row.checksum_cost = median(costs);
      lanes_.push_back(std::move(row));
    }
    with.pair.reset();  // its memory is wanted for the next lane
    if (without != nullptr) without->pair.reset();
    return absl::OkStatus();
  }
  // Baselines first, then the lanes.
  void finish() {
    for (const char* name : {"memcpy", "memcpy_nt", "rawsocket"})
      for (const uint64_t piece : options_.pieces) report_.rows.push_back(row_of(subjects_.at(name), piece));
    std::ranges::move(lanes_, std::back_inserter(report_.rows));
  }

 private:
  MovePlace receiver_place() const {
    return {report_.cores.size() == 2 ? report_.cores[1] : -1, options_.receiver.network};
  }
  absl::StatusOr<std::unique_ptr<MoveReceiver>> start_receiver(const ReceiverOrder& order,
                                                               const MovePair& pair) {
    return remote_ != nullptr ? remote_->start(order) : fork_receiver(pair, receiver_place());
  }
  absl::StatusOr<std::reference_wrapper<Subject>> start_lane(const std::string& name,
                                                             const LaneOptions& lane) {
    const MovePair pair = lane_pair(lane);
    ASSIGN_OR_RETURN(
        auto receiver,
        start_receiver({.kind = lane.lane, .pool_bytes = lane.pool_bytes, .checksum = lane.checksum}, pair));
    return start(name, pair, std::move(receiver));
  }
  absl::StatusOr<std::reference_wrapper<Subject>> start(const std::string& name, const MovePair& pair,
                                                        std::unique_ptr<MoveReceiver> receiver) {
    Subject& subject = subjects_[name];
    subject.name = name;
    const MovePlace place{report_.cores.size() == 2 ? report_.cores[0] : -1, options_.sender.network};
    ASSIGN_OR_RETURN(subject.pair, MeasuredPair::start(pair, place, std::move(receiver)));
    // Every page is touched before anything is measured.
    ASSIGN_OR_RETURN(const MoveResult warm,
                     subject.pair->move({.piece = uint64_t{64} << 10, .total = options_.total_bytes}));
    (void)warm;
    return std::ref(subject);
  }
  TransferRow row_of(Subject& subject, uint64_t piece) const {
    const double gigabytes = static_cast<double>(options_.total_bytes) / 1e9;
    return {.lane = subject.name,
            .piece_bytes = piece,
            .gb_s = gigabytes / median(subject.seconds[piece]),
            .cpu_s_per_gb = median(subject.cpu[piece]) / gigabytes,
            .repetitions = static_cast<int>(subject.seconds[piece].size())};
  }
  absl::Status repeat(const std::vector<Subject*>& subjects, uint64_t piece) {
    for (int i = 0; i < options_.repetitions; ++i)
      for (Subject* subject : subjects) {
        ASSIGN_OR_RETURN(const MoveResult result,
                         subject->pair->move({.piece = piece, .total = options_.total_bytes}));
        subject->seconds[piece].push_back(result.seconds);
        subject->cpu[piece].push_back(result.cpu_seconds);
      }
    return absl::OkStatus();
  }

  const BenchTransferOptions& options_;
  std::unique_ptr<RemoteReceivers> remote_;  // outlives its receivers
  std::string sender_host_ = options_.sender.address, receiver_host_ = options_.receiver.address;
  BenchCertificate certificate_;
  TransferBenchReport& report_;
  std::map<std::string, Subject> subjects_;
  std::vector<TransferRow> lanes_;
};

absl::Status check(const BenchTransferOptions& options) {
  for (const uint64_t piece : options.pieces)
    if (piece == 0 || piece % transport::kPoolAlignment != 0 || piece > options.pool_bytes / 4)
      return absl::InvalidArgumentError(cat("piece of ", piece, " bytes: want a multiple of ",
                                            transport::kPoolAlignment, ", a quarter of the pool at most"));
  if (options.pieces.empty() || options.lanes.empty())
    return absl::InvalidArgumentError("bench transfer: no pieces or no lanes");
  for (const std::string& lane : options.lanes)
    if (!is_bench_lane(lane))
      return absl::InvalidArgumentError(
          cat("lane: want local, socket, socket-tls, am, get or get-emulated, got ", lane));
  for (const BenchHost* host : {&options.sender, &options.receiver})
    RETURN_IF_ERROR(transport::parse_address(host->address, 0).status());
  const bool hosts = !options.sender.network.empty() || !options.receiver.network.empty();
  if (hosts && std::ranges::count(options.lanes, "local") > 0)
    return absl::InvalidArgumentError("lane local: not between hosts; name others with --lanes");
  if (options.to.empty()) return absl::OkStatus();
  if (hosts)
    return absl::InvalidArgumentError(
        "--to: the processes are on two machines, without --sender and --receiver");
  for (const std::string& lane : options.lanes)
    if (!goes_between_machines(lane))
      return absl::InvalidArgumentError(
          cat("lane ", lane, ": not between two machines; name others with --lanes, socket,am"));
  return absl::OkStatus();
}

template <class... Values>
std::string line(const char* format, Values... values) {
  char text[256];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

}  // namespace

absl::StatusOr<TransferBenchReport> measure_transfer(const BenchTransferOptions& options) {
  RETURN_IF_ERROR(check(options));
  TransferBenchReport report{.to = options.to,
                             .pool_bytes = options.pool_bytes,
                             .congestion_control = MeasuredPair::congestion_control(options.sender.network)};
  const std::vector<int> cores = allowed_cores().cpus;
  if (cores.size() >= 2) report.cores = {cores[0], cores[1]};
  Bench bench(options, report);
  RETURN_IF_ERROR(bench.connect());
  RETURN_IF_ERROR(bench.copy_baseline("memcpy", memcpy_pair(options.pool_bytes, false)));
  RETURN_IF_ERROR(bench.copy_baseline("memcpy_nt", memcpy_pair(options.pool_bytes, true)));
  RETURN_IF_ERROR(bench.socket_baseline());
  for (const std::string& lane : options.lanes)
    RETURN_IF_ERROR(bench.measure_lane(lane, lane == "local" ? "memcpy" : "rawsocket"));
  bench.finish();
  return report;
}

std::string to_json(const TransferBenchReport& report) {
  json::array rows;
  for (const TransferRow& r : report.rows) {
    json::object row{{"lane", r.lane},
                     {"piece_bytes", r.piece_bytes},
                     {"gb_s", r.gb_s},
                     {"cpu_s_per_gb", r.cpu_s_per_gb},
                     {"repetitions", r.repetitions}};
    if (!r.baseline.empty()) {
      row["baseline"] = r.baseline;
      row["of_baseline"] = r.of_baseline;
      row["checksum"] = true;
      if (r.checksum_cost) row["checksum_cost"] = *r.checksum_cost;
    }
    rows.push_back(std::move(row));
  }
  return json::serialize(json::object{{"version", kVersion},
                                      {"cores", json::value_from(report.cores)},
                                      {"pool_bytes", report.pool_bytes},
                                      {"tcp_congestion_control", report.congestion_control},
                                      {"to", report.to},
                                      {"rows", std::move(rows)}}) +
         "\n";
}

std::string to_table(const TransferBenchReport& report) {
  std::string out = line("%-10s %9s %8s %9s %22s %14s\n", "lane", "piece", "GB/s", "CPU s/GB",
                         "of its baseline", "checksum cost");
  for (const TransferRow& r : report.rows) {
    out += line("%-10s %9llu %8.2f %9.3f", r.lane.c_str(), static_cast<unsigned long long>(r.piece_bytes),
                r.gb_s, r.cpu_s_per_gb);
    if (!r.baseline.empty()) out += line(" %8.2f of %-10s", r.of_baseline, r.baseline.c_str());
    if (r.checksum_cost) out += line(" %13.1f%%", 100 * *r.checksum_cost);
    out += "\n";
  }
  if (!report.congestion_control.empty())
    out += cat("TCP: ", report.congestion_control,
               report.congestion_control.starts_with("bbr")
                   ? ", which sends by a timer: try cubic or reno, too\n"
                   : "\n");
  return out;
}

int run_bench_transfer(const BenchTransferOptions& options) {
  if (!options.serve.empty()) {
    const absl::Status end = serve_receivers({.address = options.serve,
                                              .insecure_plaintext = options.insecure_plaintext,
                                              .most_pool_bytes = options.pool_bytes});
    std::fprintf(stderr, "baton bench transfer: %s\n", std::string(end.message()).c_str());
    return absl::IsInvalidArgument(end) ? kExitUsage : kExitFailed;
  }
  const auto report = measure_transfer(options);
  if (!report.ok()) {
    std::fprintf(stderr, "baton bench transfer: %s\n", std::string(report.status().message()).c_str());
    return absl::IsInvalidArgument(report.status()) ? kExitUsage : kExitFailed;
  }
  std::fputs((options.json ? to_json(*report) : to_table(*report)).c_str(), stdout);
  return kExitOk;
}

}  // namespace baton::cli
