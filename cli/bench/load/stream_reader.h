#pragma once

#include <algorithm>
#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"

namespace baton::load {

// What was seen of one streamed answer.
struct StreamRecord {
  Instant sent{};              // before connecting, or before the first byte on a kept connection
  std::vector<Instant> texts;  // one for each event that carries text
  Instant ended{};
  int status = 0;
  int prompt_tokens = 0;                   // as the server counted
  int output_tokens = 0;                   // with continuous_usage_stats: so far
  std::string verdict;                     // x-baton-path
  std::map<std::string, double> stage_ms;  // *_ms of the server's timings
  std::string error;                       // empty: it went well
  std::string events;                      // the data of all events, a line each, when that was asked for
  bool dropped = false;                    // hung up on purpose

  // At least: as the server counted, or one for each event with text.
  int tokens_seen() const { return std::max(output_tokens, static_cast<int>(texts.size())); }
};

// Reads one HTTP/1.1 answer as its bytes come: head, chunked or counted body, server-sent events. Looks for a
// few words in an event instead of parsing its JSON, so that a client that times hundreds of streams takes
// little of the machine it measures. Thread: the client's. Owns what has come of an unfinished event. Errors:
// go to StreamRecord::error: another status than 200, an error event, a body that breaks off or is malformed.
class StreamReader {
 public:
  explicit StreamReader(bool keep_events = false) : keep_events_(keep_events) {}

  // `at`: when these bytes were read.
  void feed(std::string_view bytes, Instant at, StreamRecord& record);
  // The connection ended.
  void end_of_input(StreamRecord& record);
  bool done() const { return state_ == State::kDone; }
  bool keep_alive() const { return keep_alive_; }

 private:
  enum class State { kHead, kChunkSize, kChunk, kChunkEnd, kTrailer, kCounted, kToEnd, kDone };

  bool in_line() const;
  void take_line(StreamRecord& record);
  void read_head(StreamRecord& record);
  bool read_line(std::string_view& bytes);
  size_t read_body(std::string_view bytes, Instant at, StreamRecord& record);
  void read_chunk_size(StreamRecord& record);
  void take_body(std::string_view bytes, Instant at, StreamRecord& record);
  void take_event(std::string_view event, Instant at, StreamRecord& record);
  void finish(StreamRecord& record);
  void fail(StreamRecord& record, std::string why);

  bool keep_events_;
  State state_ = State::kHead;
  std::string line_;  // of the head (whole) or of the chunk framing
  std::string body_;  // events that are not complete; the whole of an answer that is no stream
  size_t left_ = 0;   // of the chunk or the counted body
  bool events_ = false;
  bool said_done_ = false;
  bool keep_alive_ = true;
};

// The number behind "name": in a JSON text; `none` when it is not there.
double number_after(std::string_view json, std::string_view name, double none);

}  // namespace baton::load
