#pragma once

#include <map>
#include <variant>
#include <vector>

#include "transport/messages/messages.h"

namespace baton::testing {

// What an engine answered, by request, put together from its reports.
struct Stream {
  std::vector<TokenOutput> tokens, prompt_tokens;
  FinishReason finish = FinishReason::kNone;
  bool operator==(const Stream&) const = default;
};

struct AnsweredStreams {
  std::map<uint64_t, Stream> streams;
  uint64_t ended = 0;

  void take(const std::vector<WorkerMessage>& messages) {
    for (const WorkerMessage& message : messages) {
      const auto* step = std::get_if<StepReport>(&message);
      if (step == nullptr) continue;
      for (const SequenceTokens& s : step->sequences) {
        Stream& stream = streams[s.request.value()];
        stream.tokens.insert(stream.tokens.end(), s.tokens.begin(), s.tokens.end());
        stream.prompt_tokens.insert(stream.prompt_tokens.end(), s.prompt_tokens.begin(),
                                    s.prompt_tokens.end());
        if (s.finish == FinishReason::kNone) continue;
        stream.finish = s.finish;
        ++ended;
      }
    }
  }
};

}  // namespace baton::testing
