#include "kernels/cuda/product_trials.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string_view>
#include <thread>

#include "base/block_hash.h"
#include "base/cat.h"
#include "base/clock.h"
#include "base/rng.h"
#include "kernels/float16.h"

namespace baton::kernels::cuda {
namespace {

// Rows of weights and of x that differ: primes, so that they meet every place of a tile.
constexpr int kWeightRows = 509, kOtherRows = 13;
// Weights that are read one after the other are more than any cache holds.
constexpr size_t kColdBytes = size_t{192} << 20;
constexpr auto kPatience = std::chrono::seconds(60);
constexpr double kRoundSeconds = 1e-3;

// Numbers of every sign and of sizes over several powers of two: sums round at every step, so that another
// order shows.
std::vector<uint16_t> random_row(int64_t width, Rng& random) {
  std::vector<uint16_t> row(static_cast<size_t>(width));
  for (uint16_t& v : row) {
    const double r = random.next_double() * 2 - 1;
    v = float_to_bfloat16(static_cast<float>(r * std::abs(r)));
  }
  return row;
}

uint64_t hash_of(const std::vector<float>& row) {
  const std::string_view bytes(reinterpret_cast<const char*>(row.data()), row.size() * sizeof(float));
  return root_hash({0x70726f6475637473, 0x72756e7472696564}, bytes).lo;  // any constant
}

// Ends, middle and the edges of tiles.
std::vector<int> probe_places(int rows) {
  std::vector<int> out = {0, rows / 2, rows - 1};
  for (int edge = 8; edge < rows && edge <= 256; edge *= 2) out.insert(out.end(), {edge - 1, edge});
  std::ranges::sort(out);
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ProductTrials>> ProductTrials::make(ProductLibrary& library,
                                                                   const ProductShape& shape, int most_rows,
                                                                   cudaStream_t stream) {
  std::unique_ptr<ProductTrials> trials(new ProductTrials(library, shape, stream));
  if (const absl::Status filled = trials->fill(most_rows); !filled.ok())
    return absl::Status(filled.code(), cat("trying ", shape.text(), " with ", most_rows, " rows: ",
                                           std::string(filled.message()), " (fewer rows take less memory)"));
  return trials;
}

absl::Status ProductTrials::fill(int most_rows) {
  using Kind = DeviceBuffer::Kind;
  const size_t weight_row = sizeof(uint16_t) * static_cast<size_t>(shape_.ldw), one = weight_row * shape_.n;
  copies_ = std::max<size_t>(1, std::min<size_t>(64, kColdBytes / one));
  ASSIGN_OR_RETURN(weights_, DeviceBuffer::make(Kind::kDevice, copies_ * one, "weights"));
  ASSIGN_OR_RETURN(x_, DeviceBuffer::make(Kind::kDevice, sizeof(uint16_t) * shape_.ldx * most_rows, "rows"));
  ASSIGN_OR_RETURN(out_,
                   DeviceBuffer::make(Kind::kDevice, sizeof(float) * shape_.ldo * most_rows, "results"));
  Rng random(1);
  std::vector<uint16_t> some;
  for (int r = 0; r < std::min(kWeightRows, shape_.n); ++r) {
    const std::vector<uint16_t> row = random_row(shape_.ldw, random);
    some.insert(some.end(), row.begin(), row.end());
  }
  for (size_t copy = 0; copy < copies_; ++copy)
    for (int r = 0; r < shape_.n; r += kWeightRows)
      RETURN_IF_ERROR(copy_to_device(weights_.data() + copy * one + r * weight_row, some.data(),
                                     std::min(kWeightRows, shape_.n - r) * weight_row, "copying weights"));
  probe_ = random_row(shape_.ldx, random);
  for (int i = 0; i < kOtherRows; ++i) others_.push_back(random_row(shape_.ldx, random));
  for (int row = 0; row < most_rows; ++row) RETURN_IF_ERROR(write_row(row, false));
  return absl::OkStatus();
}

absl::Status ProductTrials::write_row(int row, bool probe) {
  const std::vector<uint16_t>& values = probe ? probe_ : others_[row % kOtherRows];
  return copy_to_device(x_.as<uint16_t>() + row * shape_.ldx, values.data(), values.size() * sizeof(uint16_t),
                        "copying rows");
}

absl::Status ProductTrials::place_probes(int rows) {
  for (const int place : places_) RETURN_IF_ERROR(write_row(place, false));
  rows_ = rows;
  places_ = probe_places(rows);
  for (const int place : places_) RETURN_IF_ERROR(write_row(place, true));
  return absl::OkStatus();
}

absl::Status ProductTrials::run(const Algorithm& algorithm) {
  const size_t one = static_cast<size_t>(shape_.n) * shape_.ldw;
  next_copy_ = (next_copy_ + 1) % copies_;
  return library_.multiply(
      shape_, algorithm,
      {weights_.as<uint16_t>() + next_copy_ * one, x_.as<uint16_t>(), out_.as<float>(), rows_}, stream_);
}

absl::Status ProductTrials::wait() {
  const SteadyClock clock;
  const Instant deadline = clock.now() + kPatience;
  for (;;) {
    const cudaError_t state = cudaStreamQuery(stream_);
    if (state != cudaErrorNotReady) return to_status(state, cat("trying ", shape_.text()));
    (void)cudaGetLastError();
    if (clock.now() > deadline)
      return absl::DeadlineExceededError(
          cat("trying ", shape_.text(), " with ", rows_, " rows: not done after a minute: the device hangs"));
    std::this_thread::yield();
  }
}

absl::StatusOr<Trial> ProductTrials::look(const Algorithm& algorithm) {
  RETURN_IF_ERROR(wait());
  const std::vector<float> zeros(static_cast<size_t>(shape_.n));
  for (const int place : places_)
    RETURN_IF_ERROR(copy_to_device(out_.as<float>() + place * shape_.ldo, zeros.data(),
                                   zeros.size() * sizeof(float), "clearing results"));
  RETURN_IF_ERROR(run(algorithm));
  RETURN_IF_ERROR(wait());
  Trial trial{.rows = rows_, .uniform = true};
  std::vector<float> first, row(static_cast<size_t>(shape_.n));
  for (const int place : places_) {
    RETURN_IF_ERROR(to_status(cudaMemcpy(row.data(), out_.as<float>() + place * shape_.ldo,
                                         row.size() * sizeof(float), cudaMemcpyDeviceToHost),
                              "reading results"));
    if (first.empty()) first = row;
    trial.uniform &= std::memcmp(first.data(), row.data(), row.size() * sizeof(float)) == 0;
  }
  trial.signature = hash_of(first);
  return trial;
}

absl::StatusOr<double> ProductTrials::time(const Algorithm& algorithm, int runs) {
  const SteadyClock clock;
  const Instant begun = clock.now();
  for (int i = 0; i < runs; ++i) RETURN_IF_ERROR(run(algorithm));
  RETURN_IF_ERROR(wait());
  return to_seconds(clock.now() - begun) / runs;
}

absl::StatusOr<Trial> ProductTrials::measure(const Algorithm& algorithm, int rounds) {
  ASSIGN_OR_RETURN(Trial trial, look(algorithm));
  ASSIGN_OR_RETURN(const double about, time(algorithm, 1));
  const int runs = static_cast<int>(std::clamp(kRoundSeconds / std::max(about, 1e-7), 1.0, 200.0));
  std::vector<double> seconds;
  for (int round = 0; round < rounds; ++round) {
    ASSIGN_OR_RETURN(const double each, time(algorithm, runs));
    seconds.push_back(each);
  }
  std::ranges::nth_element(seconds, seconds.begin() + rounds / 2);
  trial.microseconds = 1e6 * seconds[rounds / 2];
  return trial;
}

}  // namespace baton::kernels::cuda
