#include "cli/bench/load/stream_reader.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstdlib>
#include <utility>

#include "base/cat.h"

namespace baton::load {
namespace {

constexpr size_t kHeadLimit = 64 * 1024;
constexpr std::array kStages = {"queue_ms",   "reserve_ms",  "worker_queue_ms",
                                "prefill_ms", "transfer_ms", "transfer_exposed_ms"};

size_t skip_spaces(std::string_view text, size_t at) {
  while (at < text.size() && text[at] == ' ') ++at;
  return at;
}

// Does the event hold "name": "x with a first character?
bool has_text(std::string_view event, std::string_view name) {
  const size_t found = event.find(name);
  if (found == std::string_view::npos) return false;
  const size_t quote = skip_spaces(event, found + name.size());
  return quote + 1 < event.size() && event[quote] == '"' && event[quote + 1] != '"';
}

// The value of a field of the head, whose names stand in lower case here; empty when it is not there.
std::string_view field(std::string_view head, std::string_view name) {
  const std::string key = cat("\r\n", name, ":");
  const size_t at = head.find(key);
  if (at == std::string_view::npos) return {};
  const size_t begin = skip_spaces(head, at + key.size());
  return head.substr(begin, head.find("\r\n", begin) - begin);
}

std::string lower(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

}  // namespace

double number_after(std::string_view json, std::string_view name, double none) {
  const std::string key = cat("\"", name, "\":");
  const size_t at = json.find(key);
  if (at == std::string_view::npos) return none;
  double value = none;
  const size_t begin = skip_spaces(json, at + key.size());
  std::from_chars(json.data() + begin, json.data() + json.size(), value);
  return value;
}

void StreamReader::fail(StreamRecord& record, std::string why) {
  if (record.error.empty()) record.error = std::move(why);
  state_ = State::kDone;
  keep_alive_ = false;
}

bool StreamReader::in_line() const {
  return state_ == State::kHead || state_ == State::kChunkSize || state_ == State::kChunkEnd ||
         state_ == State::kTrailer;
}

void StreamReader::feed(std::string_view bytes, Instant at, StreamRecord& record) {
  while (!bytes.empty() && !done()) {
    if (!in_line()) {
      bytes.remove_prefix(read_body(bytes, at, record));
    } else if (read_line(bytes)) {
      take_line(record);
    }
    if (line_.size() > kHeadLimit) fail(record, "an endless head");
  }
}

void StreamReader::take_line(StreamRecord& record) {
  if (state_ == State::kHead) {
    if (line_.ends_with("\r\n\r\n")) read_head(record);
    return;
  }
  if (state_ == State::kTrailer && line_ == "\r\n") {
    finish(record);
  } else if (state_ == State::kChunkSize) {
    read_chunk_size(record);
  } else if (state_ == State::kChunkEnd) {
    state_ = State::kChunkSize;
  }
  line_.clear();
}

// Moves bytes up to the end of a line into line_; false when the line is not complete.
bool StreamReader::read_line(std::string_view& bytes) {
  const size_t end = bytes.find('\n');
  const size_t n = end == std::string_view::npos ? bytes.size() : end + 1;
  line_.append(bytes.substr(0, n));
  bytes.remove_prefix(n);
  return end != std::string_view::npos;
}

void StreamReader::read_head(StreamRecord& record) {
  record.status = line_.size() > 12 ? std::atoi(line_.c_str() + 9) : 0;
  const std::string head = lower(std::exchange(line_, {}));
  record.verdict = field(head, "x-baton-path");
  events_ = field(head, "content-type").starts_with("text/event-stream");
  keep_alive_ = field(head, "connection") != "close";
  const std::string_view length = field(head, "content-length");
  if (field(head, "transfer-encoding") == "chunked") {
    state_ = State::kChunkSize;
  } else if (!length.empty()) {
    std::from_chars(length.data(), length.data() + length.size(), left_);
    state_ = State::kCounted;
    if (left_ == 0) finish(record);
  } else {
    state_ = State::kToEnd;
  }
}

void StreamReader::read_chunk_size(StreamRecord& record) {
  size_t size = 0;
  const auto [end, error] = std::from_chars(line_.data(), line_.data() + line_.size(), size, 16);
  if (error != std::errc{} || end == line_.data()) return fail(record, "a malformed chunk");
  left_ = size;
  state_ = size == 0 ? State::kTrailer : State::kChunk;
}

size_t StreamReader::read_body(std::string_view bytes, Instant at, StreamRecord& record) {
  const size_t n = state_ == State::kToEnd ? bytes.size() : std::min(left_, bytes.size());
  take_body(bytes.substr(0, n), at, record);
  if (state_ == State::kToEnd || done()) return n;
  left_ -= n;
  if (left_ > 0) return n;
  if (state_ == State::kCounted) finish(record);
  if (state_ == State::kChunk) state_ = State::kChunkEnd;
  return n;
}

void StreamReader::take_body(std::string_view bytes, Instant at, StreamRecord& record) {
  body_.append(bytes);
  if (!events_) return;
  size_t begin = 0;
  for (size_t end; (end = body_.find("\n\n", begin)) != std::string::npos; begin = end + 2)
    take_event(std::string_view(body_).substr(begin, end - begin), at, record);
  body_.erase(0, begin);
}

void StreamReader::take_event(std::string_view event, Instant at, StreamRecord& record) {
  if (!event.starts_with("data:")) return;  // a comment keeps the connection alive
  event.remove_prefix(skip_spaces(event, 5));
  if (keep_events_) record.events.append(event).append("\n");
  if (event == "[DONE]") {
    said_done_ = true;
    return;
  }
  if (event.starts_with("{\"error\"")) return fail(record, std::string(event));
  if (has_text(event, "\"text\":") || has_text(event, "\"content\":")) record.texts.push_back(at);
  const double prompt = number_after(event, "prompt_tokens", -1);
  if (prompt < 0) return;
  record.prompt_tokens = static_cast<int>(prompt);
  record.output_tokens = static_cast<int>(number_after(event, "completion_tokens", 0));
  for (const char* stage : kStages)
    if (const double ms = number_after(event, stage, -1); ms >= 0) record.stage_ms[stage] = ms;
}

void StreamReader::finish(StreamRecord& record) {
  state_ = State::kDone;
  if (record.status != 200) return fail(record, cat("status ", record.status, ": ", body_));
  if (events_ && !said_done_) return fail(record, "the stream ended without [DONE]");
  if (!events_) fail(record, cat("no event stream: ", body_));
}

void StreamReader::end_of_input(StreamRecord& record) {
  if (done()) return;
  if (state_ == State::kToEnd) return finish(record);
  fail(record, state_ == State::kHead ? "the connection closed without an answer" : "the answer broke off");
}

}  // namespace baton::load
