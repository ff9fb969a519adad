#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "coordinator/request/request_port.h"

namespace baton::coordinator {

// How one call of an API route ended. Durations count from the last byte of the request.
struct CallRecord {
  std::string endpoint;    // chat, completions, tokenize, detokenize
  std::string request_id;  // x-request-id
  std::string tenant;      // empty where there are no keys
  std::string model;
  int status = 0;       // of the answer; 0 = the client left before it
  std::string outcome;  // ok, refused, failed, client_left
  bool stream = false;
  Duration ttft{};  // 0 = no token came
  Duration e2e{};
  int32_t choices = 0;
  Usage usage;
  RouteVerdict verdict;
  StageTimes times;
};

// What the gateway reports; the wiring makes metrics and log lines of it. Thread: io. Members may be empty.
struct GatewayObserver {
  std::function<void(const CallRecord&)> on_request_done;
  std::function<void(Duration)> on_inter_token;  // between two messages of tokens of one choice, per token
  std::function<void(std::string_view)> on_unknown_field;
  std::function<void(std::string_view)> on_disconnect;  // endpoint
};

}  // namespace baton::coordinator
