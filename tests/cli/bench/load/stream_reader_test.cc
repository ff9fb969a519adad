#include "cli/bench/load/stream_reader.h"

#include <gtest/gtest.h>

#include <cstdio>

#include "base/cat.h"

namespace baton::load {
namespace {

constexpr std::string_view kHead =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nX-Baton-Path: remote-prefill\r\n"
    "Transfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n";

std::string chunk(std::string_view bytes) {
  char size[20];
  std::snprintf(size, sizeof size, "%zx\r\n", bytes.size());
  return cat(size, bytes, "\r\n");
}

std::string text_event(std::string_view text) {
  return cat("data: {\"choices\":[{\"index\":0,\"text\":\"", text,
             "\",\"finish_reason\":null}],\"usage\":null}\n\n");
}

std::string whole_answer() {
  return cat(kHead, chunk(text_event(" a")), chunk(text_event("")),
             chunk(text_event(" b") + text_event(" c")),
             chunk("data: {\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":4},"
                   "\"timings\":{\"queue_ms\":0.25,\"worker_queue_ms\":1.5,\"prefill_ms\":20}}\n\n"
                   "data: [DONE]\n\n"),
             "0\r\n\r\n");
}

Instant at(int i) { return Instant{} + std::chrono::milliseconds(i); }

void expect_good(const StreamReader& reader, const StreamRecord& r) {
  EXPECT_TRUE(reader.done());
  EXPECT_TRUE(reader.keep_alive());
  EXPECT_EQ(r.error, "");
  EXPECT_EQ(r.status, 200);
  EXPECT_EQ(r.verdict, "remote-prefill");
  EXPECT_EQ(r.texts.size(), 3u);  // the event with an empty text is none
  EXPECT_EQ(r.prompt_tokens, 12);
  EXPECT_EQ(r.output_tokens, 4);
  EXPECT_EQ(r.stage_ms.at("queue_ms"), 0.25);
  EXPECT_EQ(r.stage_ms.at("worker_queue_ms"), 1.5);
  EXPECT_EQ(r.stage_ms.at("prefill_ms"), 20);
}

TEST(StreamReader, ReadsAStreamHoweverItIsCut) {
  const std::string answer = whole_answer();
  for (size_t piece = 1; piece <= answer.size(); ++piece) {
    StreamReader reader;
    StreamRecord record;
    for (size_t i = 0; i < answer.size(); i += piece)
      reader.feed(std::string_view(answer).substr(i, piece), at(static_cast<int>(i)), record);
    expect_good(reader, record);
  }
}

TEST(StreamReader, OneEventMayBringSeveralTokens) {
  StreamReader reader;
  StreamRecord record;
  reader.feed(kHead, at(1), record);
  reader.feed(chunk(text_event("a")), at(2), record);
  EXPECT_EQ(record.tokens_seen(), 1);  // the server said nothing: one for an event
  reader.feed(chunk("data: {\"choices\":[{\"index\":0,\"text\":\" b c d e\",\"finish_reason\":null}],"
                    "\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":5,\"total_tokens\":17}}\n\n"),
              at(3), record);
  EXPECT_EQ(record.texts.size(), 2u);
  EXPECT_EQ(record.tokens_seen(), 5);
}

TEST(StreamReader, AnEventHasTheTimeOfTheReadThatCompletedIt) {
  StreamReader reader;
  StreamRecord record;
  const std::string event = chunk(text_event("x"));
  reader.feed(kHead, at(1), record);
  reader.feed(std::string_view(event).substr(0, 20), at(2), record);
  EXPECT_TRUE(record.texts.empty());
  reader.feed(std::string_view(event).substr(20), at(3), record);
  ASSERT_EQ(record.texts.size(), 1u);
  EXPECT_EQ(record.texts[0], at(3));
}

TEST(StreamReader, ChatAndOtherServersSpacing) {
  StreamReader reader;
  StreamRecord record;
  reader.feed(
      cat(kHead, chunk("data: {\"choices\": [{\"delta\": {\"role\": \"assistant\", \"content\": \"\"}}]}\n\n"
                       "data: {\"choices\": [{\"delta\": {\"content\": \"Hi\"}}]}\n\n")),
      at(1), record);
  EXPECT_EQ(record.texts.size(), 1u);
}

TEST(StreamReader, KeepsEventsWhenAsked) {
  StreamReader reader(true);
  StreamRecord record;
  reader.feed(cat(kHead, chunk("data: {\"token_ids\":[1,2]}\n\n")), at(1), record);
  EXPECT_EQ(record.events, "{\"token_ids\":[1,2]}\n");
}

TEST(StreamReader, SaysWhatWentWrong) {
  const auto error_of = [](std::string_view bytes, bool ends) {
    StreamReader reader;
    StreamRecord record;
    reader.feed(bytes, at(1), record);
    if (ends) reader.end_of_input(record);
    EXPECT_TRUE(reader.done());
    EXPECT_FALSE(reader.keep_alive());
    return record.error;
  };
  EXPECT_NE(error_of("HTTP/1.1 429 Too Many\r\ncontent-length: 4\r\n\r\nbusy", false).find("429: busy"),
            std::string::npos);
  EXPECT_NE(error_of(cat(kHead, chunk("data: {\"error\":{\"message\":\"lost\"}}\n\n")), false).find("lost"),
            std::string::npos);
  EXPECT_EQ(error_of(cat(kHead, chunk(text_event("a")), "0\r\n\r\n"), false),
            "the stream ended without [DONE]");
  EXPECT_EQ(error_of(cat(kHead, "zz\r\n"), false), "a malformed chunk");
  EXPECT_EQ(error_of(cat(kHead, chunk(text_event("a"))), true), "the answer broke off");
  EXPECT_EQ(error_of("", true), "the connection closed without an answer");
  EXPECT_NE(error_of("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", false).find("no event stream"),
            std::string::npos);
}

TEST(NumberAfter, FindsWholeNames) {
  EXPECT_EQ(number_after("{\"worker_queue_ms\":3,\"queue_ms\": 2.5}", "queue_ms", -1), 2.5);
  EXPECT_EQ(number_after("{\"a\":1}", "b", -1), -1);
}

}  // namespace
}  // namespace baton::load
