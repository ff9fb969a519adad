#include "worker/model/sharded_draw.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "base/cat.h"
#include "base/check.h"
#include "worker/model/logit_changes.h"
#include "worker/model/logit_loops.h"

namespace baton::worker {

using kernels::DrawnToken;
using kernels::DrawRow;

namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

absl::Status wrong(std::string_view what, int place) {
  return absl::InternalError(cat("sharded draw: ", what, " of place ", place, " cannot be"));
}

}  // namespace

ShardedDraw::ShardedDraw(kernels::Backend& backend, RankLinks& links, int64_t vocab)
    : backend_(backend),
      links_(links),
      vocab_(vocab),
      places_(links.shape().tensor),
      place_(links.rank() % places_),
      columns_(vocab_part(vocab, places_, place_)),
      scratch_(static_cast<size_t>(backend.host_threads())) {
  for (Scratch& scratch : scratch_) {
    scratch.logits.resize(static_cast<size_t>(columns_.size()));
    scratch.ids.resize(static_cast<size_t>(columns_.size()));
  }
}

template <class Work>
void ShardedDraw::each(size_t count, const Work& work) {
  backend_.run_on_host(static_cast<int>(count),
                       [&](int i, int thread) { work(static_cast<size_t>(i), scratch_[thread]); });
}

template <class Value, class Add>
absl::Status ShardedDraw::carry(std::vector<Value>& values, const Add& add) {
  if (place_ > 0) links_.from_previous_place(std::as_writable_bytes(std::span(values)));
  RETURN_IF_ERROR(links_.status());
  add();
  if (place_ + 1 < places_) links_.to_next_place(std::as_bytes(std::span(values)));
  return links_.status();
}

absl::Status ShardedDraw::draw(const BatchRows& rows, const kernels::LogitRows& own) {
  drawn_.assign(rows.logit_rows.size(), DrawnToken{});
  count_ = 0;
  if (rows.draws.empty()) return absl::OkStatus();
  BATON_CHECK(columns_.size() == 0 || (own.values != nullptr && own.maxima != nullptr));
  own_ = own;
  if (!rows.changes.empty())
    each(rows.draws.size(), [&](size_t r, Scratch&) {
      if (rows.draws[r].changes > 0) change(rows, r);
    });
  take_rows(rows);
  if (count_ == 0) return absl::OkStatus();
  RETURN_IF_ERROR(meet_peaks());
  each(count_, [&](size_t i, Scratch& scratch) { weigh(rows_[i], scratch); });
  RETURN_IF_ERROR(cut_top_p());
  return draw_tokens();
}

void ShardedDraw::take_rows(const BatchRows& rows) {
  for (size_t r = 0; r < rows.draws.size(); ++r) {
    if (rows.keep[r] != BatchRows::kDrawn) continue;
    if (rows_.size() == count_) rows_.emplace_back();
    rows_[count_].logit = r;
    rows_[count_++].how = &rows.draws[r];
  }
}

// Logits that are not finite stay as they are.
void ShardedDraw::change(const BatchRows& rows, size_t logit) {
  const DrawRow& how = rows.draws[logit];
  const kernels::LogitRows row = own_.from(static_cast<int64_t>(logit), columns_.size());
  if (peak(logit).finite == 0) return;
  const std::span<float> logits(row.values, static_cast<size_t>(columns_.size()));
  change_logits(std::span(rows.changes).subspan(how.first_change, how.changes),
                {how.repetition, how.frequency, how.presence}, columns_, logits);
  kernels::block_maxima(logits, row.maxima);
}

ShardedDraw::Peak ShardedDraw::peak(size_t logit) const {
  const kernels::LogitRows row = own_.from(static_cast<int64_t>(logit), columns_.size());
  const std::span<const float> maxima(row.maxima,
                                      static_cast<size_t>(kernels::logit_blocks(columns_.size())));
  Peak peak{kLowest, logit_loops::all_finite(maxima) ? 1 : 0};
  for (const float max : maxima) peak.max = std::max(peak.max, max);
  return peak;
}

// Of which rows a token can be drawn, and their largest logits.
absl::Status ShardedDraw::meet_peaks() {
  peaks_.resize(count_);
  for (size_t i = 0; i < count_; ++i) peaks_[i] = peak(rows_[i].logit);
  all_peaks_.resize(count_ * static_cast<size_t>(places_));
  links_.gather(std::as_bytes(std::span(peaks_)), std::as_writable_bytes(std::span(all_peaks_)));
  RETURN_IF_ERROR(links_.status());
  const size_t all = std::exchange(count_, 0);
  for (size_t i = 0; i < all; ++i) {
    Peak peak{kLowest, 1};
    for (size_t at = i; at < all_peaks_.size(); at += all) {
      if (all_peaks_[at].finite == 0) peak.finite = 0;
      if (all_peaks_[at].max > peak.max) peak.max = all_peaks_[at].max;
    }
    rows_[i].max = peak.max;
    if (peak.finite != 0 && std::isfinite(peak.max)) {
      if (i != count_) std::swap(rows_[i], rows_[count_]);
      ++count_;
    } else {
      drawn_[rows_[i].logit].state = peak.finite == 0 ? DrawnToken::kNotFinite : DrawnToken::kNothingLeft;
    }
  }
  return absl::OkStatus();
}

void ShardedDraw::weigh(Row& row, Scratch& scratch) {
  const kernels::LogitRows own = own_.from(static_cast<int64_t>(row.logit), columns_.size());
  const std::span<const float> logits(own.values, static_cast<size_t>(columns_.size()));
  const float floor = TokenWeights::floor(row.max, row.how->temperature);
  const size_t found =
      logit_loops::gather_above(logits, own.maxima, floor, scratch.logits.data(), scratch.ids.data());
  row.ids.resize(found);
  for (size_t i = 0; i < found; ++i) row.ids[i] = scratch.ids[i] + static_cast<TokenId>(columns_.begin);
  row.weights.weigh(row.ids, std::span(scratch.logits).first(found), row.max, row.how->temperature);
  if (row.how->min_p > 0) row.weights.drop_below(row.how->min_p);
}

absl::Status ShardedDraw::cut_top_p() {
  cutting_.clear();
  for (size_t i = 0; i < count_; ++i)
    if (rows_[i].how->top_p < 1) cutting_.push_back(i);
  if (cutting_.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(find_crossings());
  RETURN_IF_ERROR(gather_members());
  each(cutting_.size(), [&](size_t i, Scratch& scratch) { cut(i, scratch); });
  return absl::OkStatus();
}

absl::Status ShardedDraw::find_crossings() {
  masses_.assign(cutting_.size(), {});
  RETURN_IF_ERROR(carry(masses_, [&] {
    each(masses_.size(), [&](size_t i, Scratch&) { rows_[cutting_[i]].weights.add_to(masses_[i]); });
  }));
  crossings_.resize(cutting_.size());
  if (place_ + 1 == places_)
    for (size_t i = 0; i < cutting_.size(); ++i)
      crossings_[i] = TokenWeights::crossing(masses_[i], rows_[cutting_[i]].how->top_p);
  links_.from_last_place(std::as_writable_bytes(std::span(crossings_)));
  RETURN_IF_ERROR(links_.status());
  for (const TokenWeights::Crossing& c : crossings_)
    if (c.bin < 0 || c.bin >= TokenWeights::kBins) return wrong("a bin", places_ - 1);
  return absl::OkStatus();
}

absl::Status ShardedDraw::gather_members() {
  const size_t count = cutting_.size(), places = static_cast<size_t>(places_);
  each(count, [&](size_t i, Scratch&) {
    Row& row = rows_[cutting_[i]];
    row.members.clear();
    row.weights.members(crossings_[i].bin, row.members);
  });
  members_.clear();
  counts_.clear();
  for (const size_t i : cutting_) {
    counts_.push_back(static_cast<uint32_t>(rows_[i].members.size()));
    members_.insert(members_.end(), rows_[i].members.begin(), rows_[i].members.end());
  }
  all_counts_.resize(count * places);
  links_.gather(std::as_bytes(std::span(counts_)), std::as_writable_bytes(std::span(all_counts_)));
  RETURN_IF_ERROR(links_.status());
  std::vector<size_t> sums(places);
  for (size_t at = 0; at < all_counts_.size(); ++at) {
    const int place = static_cast<int>(at / count);
    if (all_counts_[at] > vocab_part(vocab_, places_, place).size()) return wrong("a bin's size", place);
    sums[at / count] += all_counts_[at];
  }
  const size_t most = std::ranges::max(sums);
  if (most == 0) return absl::OkStatus();
  members_.resize(most);
  all_members_.resize(most * places);
  links_.gather(std::as_bytes(std::span(members_)), std::as_writable_bytes(std::span(all_members_)));
  RETURN_IF_ERROR(links_.status());
  for (size_t place = 0; place < places; ++place)
    for (const TokenWeights::Member& m : std::span(all_members_).subspan(place * most, sums[place]))
      if (!(m.weight > 0 && m.weight <= 1)) return wrong("a weight", static_cast<int>(place));
  return absl::OkStatus();
}

// Every place finds the same cut.
void ShardedDraw::cut(size_t i, Scratch& scratch) {
  const size_t count = cutting_.size(), most = members_.size();
  scratch.members.clear();
  for (size_t place = 0; place < static_cast<size_t>(places_); ++place) {
    const std::span<const uint32_t> counts(all_counts_.data() + place * count, count);
    size_t first = place * most;
    for (size_t before = 0; before < i; ++before) first += counts[before];
    const auto members = std::span(all_members_).subspan(first, counts[i]);
    scratch.members.insert(scratch.members.end(), members.begin(), members.end());
  }
  rows_[cutting_[i]].weights.keep(TokenWeights::cut(scratch.members, crossings_[i].wanted));
}

absl::Status ShardedDraw::draw_tokens() {
  totals_.assign(count_, {});
  constexpr size_t kAbreast = TokenWeights::kAbreast;
  RETURN_IF_ERROR(carry(totals_, [&] {
    each((count_ + kAbreast - 1) / kAbreast,
         [&](size_t i, Scratch&) { add_totals(i * kAbreast, std::min(kAbreast, count_ - i * kAbreast)); });
  }));
  links_.from_last_place(std::as_writable_bytes(std::span(totals_)));
  RETURN_IF_ERROR(links_.status());
  each(count_, [&](size_t i, Scratch&) { find_token(i); });
  return absl::OkStatus();
}

void ShardedDraw::add_totals(size_t first, size_t count) {
  std::array<const TokenWeights*, TokenWeights::kAbreast> weights{};
  std::array<double, TokenWeights::kAbreast> sums{};
  for (size_t k = 0; k < count; ++k) {
    weights[k] = &rows_[first + k].weights;
    sums[k] = rows_[first + k].before = totals_[first + k].sum;
  }
  TokenWeights::add_to(std::span(sums).first(count), std::span(weights).first(count));
  for (size_t k = 0; k < count; ++k) {
    totals_[first + k].sum = rows_[first + k].after = sums[k];
    if (!weights[k]->empty()) totals_[first + k].last = place_;
  }
}

void ShardedDraw::find_token(size_t i) {
  const Row& row = rows_[i];
  const double total = totals_[i].sum, target = row.how->uniform * total;
  // Rounding may leave the target at the total: then it is the last token there is.
  const bool here = total > target ? !(row.before > target) && row.after > target : totals_[i].last == place_;
  if (here) drawn_[row.logit] = {row.weights.walk(row.before, target), DrawnToken::kDrawn};
}

}  // namespace baton::worker
