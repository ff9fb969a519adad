#include "worker/grammar/grammar_masks.h"

#include <utility>
#include <vector>

#include "base/cat.h"

namespace baton::worker {
namespace {

constexpr size_t kMostJobs = 256;

class MatcherMask final : public TokenMask {
 public:
  explicit MatcherMask(std::unique_ptr<text::GrammarMatcher> matcher) : matcher_(std::move(matcher)) {
    words_.resize(matcher_->mask_words());
  }

  absl::StatusOr<Allowed> after(std::span<const TokenId> answer) override {
    // Of every token, also of those that were drawn elsewhere: what a mask may cost is counted by what those
    // before it left behind.
    if (!std::exchange(begun_, true)) RETURN_IF_ERROR(matcher_->fill_mask(words_));
    for (; taken_ < answer.size(); ++taken_) {
      ASSIGN_OR_RETURN(const bool allowed, matcher_->accept(answer[taken_]));
      if (!allowed)
        return absl::InternalError(
            cat("token ", answer[taken_], " of the answer is none that its grammar allows"));
      RETURN_IF_ERROR(matcher_->fill_mask(words_));
    }
    ASSIGN_OR_RETURN(const bool stopped, matcher_->stopped());
    return Allowed{.words = words_, .only_ends = stopped};
  }

 private:
  std::unique_ptr<text::GrammarMatcher> matcher_;
  std::vector<uint32_t> words_;
  size_t taken_ = 0;  // tokens of the answer
  bool begun_ = false;
};

}  // namespace

// The coordinator has compiled it within a quarter of the time; nothing else is more generous here.
text::GrammarLimits GrammarMasks::limits() {
  text::GrammarLimits limits;
  limits.compile_time *= 4;
  return limits;
}

GrammarMasks::Made GrammarMasks::make(const Grammar& grammar) {
  ASSIGN_OR_RETURN(std::unique_ptr<text::GrammarMatcher> matcher, grammars_.matcher(grammar));
  return std::make_unique<MatcherMask>(std::move(matcher));
}

void GrammarMasks::prepare(RequestId request, const Grammar& grammar) {
  Made made = make(grammar);
  const std::lock_guard lock(mutex_);
  made_.insert_or_assign(request, std::move(made));
}

void GrammarMasks::forget(RequestId request) {
  const std::lock_guard lock(mutex_);
  made_.erase(request);
}

absl::StatusOr<std::unique_ptr<TokenMask>> GrammarMasks::begin(const GenerateRequest& request) {
  {
    const std::lock_guard lock(mutex_);
    if (auto made = made_.extract(request.id)) return std::move(made.mapped());
  }
  return make(request.grammar);
}

GrammarThread::GrammarThread(GrammarMasks& masks, std::function<void(RequestId)> done)
    : masks_(masks), done_(std::move(done)), mailbox_(kMostJobs) {}

bool GrammarThread::compile(RequestId request, const Grammar& grammar) {
  return mailbox_.post({request, grammar});
}

void GrammarThread::run() {
  std::vector<Job> jobs;
  while (!mailbox_.closed()) {
    mailbox_.wait_until(kNever);
    mailbox_.drain(jobs);
    for (const Job& job : jobs) {
      if (mailbox_.closed()) return;
      masks_.prepare(job.request, job.grammar);
      done_(job.request);
    }
    jobs.clear();
  }
}

}  // namespace baton::worker
