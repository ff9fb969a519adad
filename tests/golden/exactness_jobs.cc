#include "tests/golden/exactness_jobs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "base/rng.h"

namespace baton::testing {
namespace {

struct Running {
  worker::Sequence sequence;
  int32_t computed = 0;
  const Job* job = nullptr;
  Outcome outcome;
  bool done() const { return outcome.tokens.size() == static_cast<size_t>(job->decode); }
};

// One step of all `active`: each gets up to `chunk` of its missing rows.
void step(ModelUnderTest& engine, const std::vector<Running*>& active, int32_t chunk) {
  std::vector<worker::PlannedRows> plan;
  std::vector<Running*> planned;
  int32_t room = engine.model().max_rows();
  for (Running* r : active) {
    const auto missing = static_cast<int32_t>(r->sequence.tokens.size()) - r->computed;
    const int32_t rows = std::min({missing, chunk, room});
    if (rows == 0) continue;
    plan.push_back({&r->sequence, r->computed, rows, rows == missing, false});
    planned.push_back(r);
    room -= rows;
  }
  const worker::StepResult result = engine.run(plan);
  size_t sampled = 0;
  for (size_t i = 0; i < plan.size(); ++i) {
    Running& r = *planned[i];
    r.computed += plan[i].row_count;
    if (!plan[i].sample) continue;
    const auto logits = engine.runner().logits(sampled);
    r.outcome.logits.emplace_back(logits.begin(), logits.end());
    r.outcome.tokens.push_back(result.sampled[sampled].token.value().token);
    r.sequence.tokens.push_back(r.outcome.tokens.back());
    ++sampled;
  }
}

}  // namespace

std::vector<Outcome> run_jobs(ModelUnderTest& engine, const std::vector<Job>& jobs,
                              const Schedule& schedule) {
  std::vector<Running> all(jobs.size());
  engine.free_all_blocks();
  for (size_t i = 0; i < jobs.size(); ++i) {
    all[i].job = &jobs[i];
    all[i].sequence =
        engine.make_sequence(jobs[i].prompt, static_cast<int64_t>(jobs[i].prompt.size()) + jobs[i].decode);
    // Half greedy, half drawn: the draw must not depend on the batch either.
    all[i].sequence.request.sampling.temperature = i % 2 == 0 ? 0.0f : 0.9f;
    all[i].sequence.request.sampling.seed = 1000 + i;
    if (i % 4 == 3) all[i].sequence.request.sampling.top_k = 20;
  }
  for (size_t first = 0; first < all.size(); first = schedule.together ? all.size() : first + 1) {
    while (true) {
      std::vector<Running*> active;
      for (size_t i = first; i < (schedule.together ? all.size() : first + 1); ++i)
        if (!all[i].done()) active.push_back(&all[i]);
      if (active.empty()) break;
      step(engine, active, schedule.chunk);
    }
  }
  std::vector<Outcome> outcomes;
  for (Running& r : all) outcomes.push_back(std::move(r.outcome));
  return outcomes;
}

void expect_same_bits(const std::vector<Outcome>& got, const std::vector<Outcome>& want,
                      const std::string& what) {
  for (size_t j = 0; j < want.size(); ++j) {
    EXPECT_EQ(got[j].tokens, want[j].tokens) << what << ", sequence " << j;
    ASSERT_EQ(got[j].logits.size(), want[j].logits.size());
    for (size_t s = 0; s < want[j].logits.size(); ++s)
      ASSERT_EQ(std::memcmp(got[j].logits[s].data(), want[j].logits[s].data(), want[j].logits[s].size() * 4),
                0)
          << what << ": logits of sequence " << j << ", token " << s;
  }
}

std::vector<Job> make_jobs(const std::vector<int>& lengths, int decode, int64_t vocab) {
  Rng rng(7);
  std::vector<Job> jobs;
  std::vector<TokenId> shared;  // every third prompt begins like the one before it
  for (const int length : lengths) {
    Job job;
    job.decode = decode;
    if (jobs.size() % 3 == 2)
      job.prompt.assign(shared.begin(), shared.begin() + std::min<size_t>(shared.size(), length / 2));
    while (job.prompt.size() < static_cast<size_t>(length))
      job.prompt.push_back(static_cast<TokenId>(rng.below(vocab)));
    shared = job.prompt;
    jobs.push_back(job);
  }
  return jobs;
}

}  // namespace baton::testing
