#include "worker/grammar/grammar_masks.h"

#include <utility>
#include <vector>

#include "base/cat.h"

namespace baton::worker {
namespace {

constexpr size_t kMostJobs = 1024;

class MatcherMask final : public TokenMask {
 public:
  explicit MatcherMask(std::unique_ptr<text::GrammarMatcher> matcher) : matcher_(std::move(matcher)) {
    words_.resize(matcher_->mask_words());
  }

  absl::StatusOr<Allowed> after(std::span<const TokenId> answer) override {
    for (; taken_ < answer.size(); ++taken_) {
      ASSIGN_OR_RETURN(const bool allowed, matcher_->accept(answer[taken_]));
      if (!allowed)
        return absl::InternalError(
            cat("token ", answer[taken_], " of the answer is none that its grammar allows"));
    }
    RETURN_IF_ERROR(matcher_->fill_mask(words_));
    ASSIGN_OR_RETURN(const bool stopped, matcher_->stopped());
    return Allowed{.words = words_, .only_ends = stopped};
  }

 private:
  std::unique_ptr<text::GrammarMatcher> matcher_;
  std::vector<uint32_t> words_;
  size_t taken_ = 0;  // tokens of the answer
};

}  // namespace

absl::StatusOr<std::unique_ptr<TokenMask>> GrammarMasks::begin(const Grammar& grammar) {
  ASSIGN_OR_RETURN(std::unique_ptr<text::GrammarMatcher> matcher, grammars_.matcher(grammar));
  return std::make_unique<MatcherMask>(std::move(matcher));
}

GrammarThread::GrammarThread(TokenMasks& masks, std::function<void(RequestId)> done)
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
      (void)masks_.begin(job.grammar);  // kept, or an error that the engine will see as well
      done_(job.request);
    }
    jobs.clear();
  }
}

}  // namespace baton::worker
