#include "coordinator/gateway/openai_api.h"

#include <gmock/gmock.h>

#include "tests/coordinator/gateway/gateway_fixture.h"

namespace baton::coordinator {
namespace {

using namespace std::chrono_literals;
using boost::json::value;

// ---- every field reaches the worker

TEST_F(GatewayTest, EveryFieldOfACompletionReachesTheWorker) {
  port_.set_script(ScriptedPort::tokens({'o', 'k'}));
  start();
  auto c = client();
  const auto reply =
      c.post("/v1/completions", R"({"model":"tiny","prompt":[5,6,7],"max_tokens":40,"temperature":0.7,
      "top_p":0.8,"top_k":30,"min_p":0.05,"repetition_penalty":1.1,"presence_penalty":0.3,"frequency_penalty":-0.4,
      "logit_bias":{"10":-100,"11":2.5},"seed":1234,"logprobs":4,"echo":true,"min_tokens":3,"stop_token_ids":[20,21],
      "stop":["x"],"n":1,"best_of":1,"cache_salt":"me","user":"u"})",
             "X-Request-Id: trace-1\r\n");
  ASSERT_EQ(reply.status, 200) << reply.body;
  GenerateRequest got = port_.last().request;
  EXPECT_GT(got.time_left, 590s);
  EXPECT_LE(got.time_left, 600s);
  const GenerateRequest want{
      .id = got.id,
      .trace_id = "trace-1",
      .tenant_salt = "me",
      .prompt = {5, 6, 7},
      .sampling = {.temperature = 0.7f,
                   .top_p = 0.8f,
                   .top_k = 30,
                   .min_p = 0.05f,
                   .repetition_penalty = 1.1f,
                   .presence_penalty = 0.3f,
                   .frequency_penalty = -0.4f,
                   .logit_bias = {{10, -100}, {11, 2.5f}},
                   .seed = 1234,
                   .logprobs = 4,
                   .prompt_logprobs = 4},
      .stop = {.max_tokens = 40, .min_tokens = 3, .end_token_ids = {kEnd}, .stop_token_ids = {20, 21}},
      .time_left = got.time_left};
  EXPECT_EQ(got, want);
  EXPECT_EQ(unknown_fields_, 0);
}

TEST_F(GatewayTest, EveryFieldOfAChatReachesTheWorker) {
  port_.set_script(ScriptedPort::tokens({'o', 'k'}));
  start();
  auto c = client();
  const auto reply = c.post("/chat/completions", R"({"model":"default","messages":[
      {"role":"system","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
      {"role":"user","content":"hi <end>"}],
      "tools":[{"type":"function","function":{"name":"f"}}],"chat_template_kwargs":{"mood":"calm"},
      "max_completion_tokens":9,"max_tokens":5,"ignore_eos":true,"logprobs":true,"top_logprobs":2,"seed":-1,
      "temperature":0,"top_k":-1,"add_generation_prompt":false})");
  ASSERT_EQ(reply.status, 200) << reply.body;
  const GenerateRequest got = port_.last().request;
  const auto prompt = model_.encode_chat(
      R"({"messages":[{"role":"system","content":"a\nb"},{"role":"user","content":"hi <end>"}],"tools":[1],
          "mood":"calm","add_generation_prompt":false})");
  ASSERT_TRUE(prompt.ok());
  EXPECT_EQ(got.prompt, *prompt);
  EXPECT_EQ(got.sampling,
            (SamplingParams{.temperature = 0, .seed = static_cast<uint64_t>(-1), .logprobs = 2}));
  EXPECT_EQ(got.stop, (StopParams{.max_tokens = 9}));
  EXPECT_TRUE(valid_request_id(got.trace_id));
}

// Clients compare it: it changes with weights and numerics, and with nothing else.
TEST_F(GatewayTest, TheFingerprintIsThatOfWeightsAndNumerics) {
  port_.set_script(ScriptedPort::tokens({'o'}));
  start();
  auto c = client();
  const auto fingerprint = [&](const std::vector<std::pair<std::string, std::string>>& workers) {
    {
      std::lock_guard lock(mutex_);
      status_->workers.clear();
      for (const auto& [model, numerics] : workers)
        status_->workers.push_back({.description = {.model_hash = model, .numerics_id = numerics}});
    }
    const auto unary = json(c.post("/v1/completions", R"({"prompt":"a"})").body);
    const auto stream = events(c.post("/v1/completions", R"({"prompt":"a","stream":true})").body);
    for (const auto& event : stream)
      EXPECT_EQ(event.at("system_fingerprint"), unary.at("system_fingerprint"));
    return std::string(unary.at("system_fingerprint").as_string());
  };
  const std::string one = fingerprint({{"m", "bf16"}});
  EXPECT_EQ(fingerprint({{"m", "bf16"}, {"m", "bf16"}}), one);
  EXPECT_NE(fingerprint({{"m", "f32"}}), one);
  EXPECT_NE(fingerprint({{"n", "bf16"}}), one);
}

TEST_F(GatewayTest, TopPOfNothingIsTheMostLikelyToken) {
  port_.set_script(ScriptedPort::tokens({'o'}));
  start();
  EXPECT_EQ(client().post("/v1/completions", R"({"prompt":"a","top_p":0,"temperature":0.7})").status, 200);
  EXPECT_EQ(port_.last().request.sampling.temperature, 0.0f);
  EXPECT_EQ(port_.last().request.sampling.top_p, 1.0f);
}

TEST_F(GatewayTest, DefaultsAreOpenAisAndVllms) {
  port_.set_script(ScriptedPort::tokens({'o'}));
  start();
  auto c = client();
  ASSERT_EQ(c.post("/v1/completions", R"({"prompt":"ab"})").status, 200);
  EXPECT_EQ(port_.last().request.prompt, (std::vector<TokenId>{kBegin, 'a', 'b'}));
  EXPECT_EQ(port_.last().request.stop, (StopParams{.max_tokens = 16, .end_token_ids = {kEnd}}));
  const uint64_t first = port_.last().request.sampling.seed;
  ASSERT_EQ(c.post("/v1/completions", R"({"prompt":"ab"})").status, 200);
  EXPECT_NE(port_.last().request.sampling.seed, first) << "no seed: another one each time";
  ASSERT_EQ(c.post("/v1/chat/completions", R"({"messages":[{"role":"user","content":"hi"}]})").status, 200);
  const auto& request = port_.last().request;
  EXPECT_EQ(request.stop.max_tokens, 600 - static_cast<int32_t>(request.prompt.size()))
      << "what fits the smaller pool";
}

TEST_F(GatewayTest, ChoicesHaveSeedsOfTheirOwn) {
  port_.set_script(ScriptedPort::tokens({'o'}));
  start();
  auto c = client();
  const std::string body = R"({"prompt":["a","b"],"n":3,"seed":9})";
  ASSERT_EQ(c.post("/v1/completions", body).status, 200);
  ASSERT_EQ(port_.count(), 6u);
  std::vector<uint64_t> seeds;
  for (size_t i = 0; i < 6; ++i) seeds.push_back(port_.at(i).request.sampling.seed);
  EXPECT_EQ(seeds[0], 9u);
  EXPECT_EQ(std::set<uint64_t>(seeds.begin(), seeds.begin() + 3).size(), 3u);
  EXPECT_TRUE(std::equal(seeds.begin(), seeds.begin() + 3, seeds.begin() + 3))
      << "a prompt's choices do not depend on its neighbours";
  EXPECT_EQ(port_.at(4).request.prompt, (std::vector<TokenId>{kBegin, 'b'}));
  ASSERT_EQ(c.post("/v1/completions", body).status, 200);
  for (size_t i = 0; i < 6; ++i) EXPECT_EQ(port_.at(6 + i).request.sampling.seed, seeds[i]);
}

// ---- shapes

TEST_F(GatewayTest, UnaryCompletion) {
  port_.set_script(ScriptedPort::tokens({'h', 'i', kEnd}, FinishReason::kEndToken));
  start();
  auto c = client();
  const auto reply = c.post("/v1/completions", R"({"model":"tiny","prompt":"abc","return_token_ids":true})",
                            "x-request-id: r1\r\n");
  ASSERT_EQ(reply.status, 200) << reply.body;
  EXPECT_EQ(reply.fields.at("x-request-id"), "r1");
  EXPECT_EQ(reply.fields.at("x-baton-path"), "remote-prefill");
  EXPECT_EQ(reply.fields.at("x-baton-prefill-worker"), "prefill-0");
  EXPECT_EQ(reply.fields.at("x-baton-decode-worker"), "decode-0");
  EXPECT_EQ(reply.fields.at("x-baton-cached-tokens"), "3");
  const value v = json(reply.body);
  EXPECT_EQ(v.at("id"), "cmpl-r1");
  EXPECT_EQ(v.at("object"), "text_completion");
  EXPECT_EQ(v.at("created"), 1700000000);
  EXPECT_EQ(v.at("model"), "tiny");
  EXPECT_TRUE(v.at("system_fingerprint").as_string().starts_with("fp_"));
  EXPECT_EQ(v.at("choices"),
            json(R"([{"index":0,"text":"hi","logprobs":null,"finish_reason":"stop","stop_reason":null,
                                       "token_ids":[104,105,256],"prompt_token_ids":[257,97,98,99]}])"));
  EXPECT_EQ(
      v.at("usage"),
      json(
          R"({"prompt_tokens":4,"completion_tokens":3,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":3}})"));
  EXPECT_EQ(v.at("timings").at("cache_n"), 3);
  EXPECT_EQ(v.at("timings").at("prompt_n"), 1);
  EXPECT_EQ(v.at("timings").at("predicted_n"), 3);
  EXPECT_EQ(v.at("timings").at("prompt_ms").to_number<double>(), 2.0);
  const auto r = record(0);
  EXPECT_EQ(r.endpoint, "completions");
  EXPECT_EQ(r.outcome, "ok");
  EXPECT_EQ(r.status, 200);
  EXPECT_EQ(r.request_id, "r1");
  EXPECT_EQ(r.usage.completion_tokens, 3);
  EXPECT_GT(r.ttft, 0s);
  EXPECT_GE(r.e2e, r.ttft);
}

TEST_F(GatewayTest, UnaryChat) {
  port_.set_script(ScriptedPort::tokens({'h', 'i'}));
  start();
  auto c = client();
  const auto reply =
      c.post("/v1/chat/completions",
             R"({"messages":[{"role":"user","content":"x"}],"n":2,"logprobs":true,"top_logprobs":1})");
  ASSERT_EQ(reply.status, 200) << reply.body;
  const value v = json(reply.body);
  EXPECT_EQ(v.at("object"), "chat.completion");
  EXPECT_EQ(v.at("model"), "default");
  ASSERT_EQ(v.at("choices").as_array().size(), 2u);
  const value& choice = v.at("choices").as_array()[1];
  EXPECT_EQ(choice.at("index"), 1);
  EXPECT_EQ(choice.at("message"), json(R"({"role":"assistant","content":"hi"})"));
  EXPECT_EQ(choice.at("finish_reason"), "length");
  EXPECT_EQ(choice.at("logprobs").at("content").as_array().size(), 2u);
  EXPECT_EQ(v.at("usage").at("completion_tokens"), 4);
  const auto prompt = port_.last().request.prompt.size();
  EXPECT_EQ(v.at("usage").at("prompt_tokens"), prompt) << "the prompt counts once";
}

TEST_F(GatewayTest, StreamedChatInOrder) {
  port_.set_script(ScriptedPort::tokens({'h', kHello, kEnd}, FinishReason::kEndToken));
  start();
  auto c = client();
  const auto reply = c.post(
      "/v1/chat/completions",
      R"({"messages":[{"role":"user","content":"x"}],"stream":true,"stream_options":{"include_usage":true}})");
  ASSERT_EQ(reply.status, 200) << reply.body;
  EXPECT_TRUE(reply.complete);
  EXPECT_EQ(reply.fields.at("content-type"), "text/event-stream; charset=utf-8");
  EXPECT_EQ(reply.fields.at("x-baton-path"), "remote-prefill");
  EXPECT_EQ(reply.fields.at("x-baton-cached-tokens"), "3");
  EXPECT_TRUE(reply.body.ends_with("data: [DONE]\n\n"));
  const auto chunks = events(reply.body);
  ASSERT_EQ(chunks.size(), 5u) << reply.body;
  EXPECT_EQ(chunks[0].at("choices"),
            json(R"([{"index":0,"delta":{"role":"assistant"},"logprobs":null,"finish_reason":null}])"));
  EXPECT_EQ(chunks[1].at("choices"),
            json(R"([{"index":0,"delta":{"content":"h"},"logprobs":null,"finish_reason":null}])"));
  EXPECT_EQ(chunks[2].at("choices").at(0).at("delta").at("content"), " hello");
  EXPECT_EQ(chunks[3].at("choices"),
            json(R"([{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop","stop_reason":null}])"));
  EXPECT_EQ(chunks[4].at("choices"), json("[]"));
  EXPECT_EQ(chunks[4].at("usage").at("completion_tokens"), 3);
  EXPECT_EQ(chunks[4].at("usage").at("prompt_tokens_details").at("cached_tokens"), 3);
  EXPECT_EQ(chunks[4].at("timings").at("path"), "remote-prefill");
  for (size_t i = 0; i < 4; ++i) EXPECT_TRUE(chunks[i].at("usage").is_null());
  for (const auto& chunk : chunks) {
    EXPECT_EQ(chunk.at("object"), "chat.completion.chunk");
    EXPECT_EQ(chunk.at("id"), chunks[0].at("id"));
  }
  // The connection is still good.
  EXPECT_EQ(c.get("/live").status, 200);
}

TEST_F(GatewayTest, ContinuousUsageBeginsWithTheRole) {
  port_.set_script(ScriptedPort::tokens({'h', kEnd}, FinishReason::kEndToken));
  start();
  auto c = client();
  const auto chunks = events(c.post("/v1/chat/completions",
                                    R"({"messages":[{"role":"user","content":"x"}],"stream":true,
      "stream_options":{"include_usage":true,"continuous_usage_stats":true}})")
                                 .body);
  ASSERT_GE(chunks.size(), 2u);
  const value& first = chunks[0];
  EXPECT_EQ(first.at("choices").at(0).at("delta").at("role"), "assistant");
  EXPECT_EQ(first.at("usage").at("prompt_tokens"), port_.last().request.prompt.size());
  EXPECT_EQ(first.at("usage").at("completion_tokens"), 0);
  EXPECT_EQ(first.at("usage").at("total_tokens"), port_.last().request.prompt.size());
}

TEST_F(GatewayTest, StreamedCompletionWithEverything) {
  port_.set_script([](const auto& s) {
    s.say(Started{ScriptedPort::verdict()});
    s.say(Tokens{{output('h')}, {{.token = 'a'}, {.token = 'b', .logprob = -2}}});
    s.say(Tokens{{output(0xC3)}, {}});
    s.say(Tokens{{output(0xA9), output('!')}, {}});
    s.say(
        Finished{.reason = FinishReason::kStopToken, .usage = {2, 4, 0}, .verdict = ScriptedPort::verdict()});
  });
  start();
  auto c = client();
  const auto reply = c.post(
      "/v1/completions", R"({"prompt":[97,98],"stream":true,"echo":true,"logprobs":1,"return_token_ids":true,
      "stop_token_ids":[33],"stream_options":{"include_usage":true,"continuous_usage_stats":true}})");
  const auto chunks = events(reply.body);
  ASSERT_EQ(chunks.size(), 5u) << reply.body;
  EXPECT_EQ(chunks[0].at("choices").at(0).at("text"), "abh");
  EXPECT_EQ(chunks[0].at("choices").at(0).at("prompt_token_ids"), json("[97,98]"));
  EXPECT_EQ(chunks[0].at("choices").at(0).at("token_ids"), json("[104]"));
  EXPECT_EQ(chunks[0].at("choices").at(0).at("logprobs").at("token_logprobs").at(0), json("null"));
  EXPECT_EQ(chunks[0].at("choices").at(0).at("logprobs").at("text_offset"), json("[0,1,2]"));
  EXPECT_EQ(chunks[0].at("usage").at("completion_tokens"), 1);
  EXPECT_EQ(chunks[1].at("choices").at(0).at("text"), "")
      << "half a character is held back, its token is told";
  EXPECT_EQ(chunks[1].at("choices").at(0).at("token_ids"), json("[195]"));
  EXPECT_EQ(chunks[2].at("choices").at(0).at("text"), "\xC3\xA9");
  EXPECT_EQ(chunks[2].at("usage").at("completion_tokens"), 4);
  EXPECT_EQ(chunks[3].at("choices").at(0).at("finish_reason"), "stop");
  EXPECT_EQ(chunks[3].at("choices").at(0).at("stop_reason"), 33);
  EXPECT_EQ(chunks[4].at("choices"), json("[]"));
}

TEST_F(GatewayTest, WithoutUsageTheLastChunkHasTheTimings) {
  port_.set_script(ScriptedPort::tokens({'h'}));
  start();
  auto c = client();
  const auto chunks = events(c.post("/v1/completions", R"({"prompt":"a","stream":true})").body);
  ASSERT_EQ(chunks.size(), 2u);
  EXPECT_FALSE(chunks[0].as_object().contains("usage"));
  EXPECT_EQ(chunks[1].at("choices").at(0).at("finish_reason"), "length");
  EXPECT_TRUE(chunks[1].as_object().contains("timings"));
}

TEST_F(GatewayTest, EchoAloneMakesNoToken) {
  port_.set_script(ScriptedPort::tokens({'h'}));
  start();
  auto c = client();
  const auto reply = c.post("/v1/completions", R"({"prompt":"abc","echo":true,"max_tokens":0})");
  ASSERT_EQ(reply.status, 200) << reply.body;
  EXPECT_EQ(port_.last().request.stop.max_tokens, 1);
  EXPECT_EQ(json(reply.body).at("choices").at(0).at("text"), "abc");
  EXPECT_EQ(json(reply.body).at("usage").at("completion_tokens"), 0);
}

// A worker has no log probability for the first prompt token: with or without a place for it, the answer is
// the same.
TEST_F(GatewayTest, EchoedLogprobsBeginWithNull) {
  start();
  auto c = client();
  const TokenOutput a{.token = 'a'}, b{.token = 'b', .logprob = -2};
  for (const auto& prompt_tokens : {std::vector{b}, std::vector{a, b}}) {
    port_.set_script([&](const auto& s) {
      s.say(Started{ScriptedPort::verdict()});
      s.say(Tokens{{output('h')}, prompt_tokens});
      s.say(Finished{.reason = FinishReason::kLength, .verdict = ScriptedPort::verdict()});
    });
    const auto reply =
        c.post("/v1/completions", R"({"prompt":[97,98],"echo":true,"logprobs":0,"max_tokens":1})");
    const value v = json(reply.body).at("choices").at(0);
    EXPECT_EQ(v.at("text"), "abh");
    EXPECT_EQ(v.at("logprobs"), json(R"({"text_offset":[0,1,2],"token_logprobs":[null,-2,-0.5],
                                         "tokens":["a","b","h"],"top_logprobs":null})"));
  }
  port_.set_script(
      ScriptedPort::tokens({'h'}));  // a prompt of one token: the worker has nothing to say of it
  const auto lone = c.post("/v1/completions", R"({"prompt":[97],"echo":true,"logprobs":0,"max_tokens":1})");
  EXPECT_EQ(json(lone.body).at("choices").at(0).at("logprobs").at("token_logprobs"), json("[null,-0.5]"));
}

// ---- stop strings

TEST_F(GatewayTest, AStopStringAcrossTokensEndsAndCancels) {
  start();
  auto c = client();
  for (const bool stream : {false, true}) {
    port_.forget();
    c.send(LoopbackClient::post_text(
        "/v1/completions",
        std::string(R"({"prompt":"a","stop":["nope","STOP"],"stream":)") + (stream ? "true}" : "false}")));
    ASSERT_TRUE(soon([&] { return port_.count() == 1; }));
    const auto request = port_.at(0);
    request.say(Started{ScriptedPort::verdict()});
    for (const TokenId id : {TokenId{'g'}, TokenId{'o'}, kStopHalf, TokenId{'O'}, TokenId{'P'}, TokenId{'x'}})
      request.say(Tokens{{output(id)}, {}});
    const auto reply = c.read_reply();
    EXPECT_TRUE(soon([&] { return port_.cancelled() == 1; }));
    std::string text, reason, cause;
    for (const auto& v : stream ? events(reply.body) : std::vector<value>{json(reply.body)}) {
      const value& choice = v.at("choices").at(0);
      text += std::string(choice.at("text").as_string());
      if (choice.at("finish_reason").is_string()) {
        reason = std::string(choice.at("finish_reason").as_string());
        cause = std::string(choice.at("stop_reason").as_string());
      }
    }
    EXPECT_EQ(text, "go");
    EXPECT_EQ(reason, "stop");
    EXPECT_EQ(cause, "STOP");
  }
  EXPECT_EQ(record(0).usage.completion_tokens, 5);
}

TEST_F(GatewayTest, TheStopStringStaysWhenAsked) {
  port_.set_script(ScriptedPort::tokens(bytes_of("go STOP on")));
  start();
  auto c = client();
  const auto reply =
      c.post("/v1/completions", R"({"prompt":"a","stop":"STOP","include_stop_str_in_output":true})");
  EXPECT_EQ(json(reply.body).at("choices").at(0).at("text"), "go STOP");
}

// ---- what is refused

TEST_F(GatewayTest, LongPromptsAreRefusedAgainstTheSmallerPool) {
  port_.set_script(ScriptedPort::tokens({'o'}));
  start();
  auto c = client();
  const auto body = [](size_t n, const std::string& more) {
    std::string ids;
    for (size_t i = 0; i < n; ++i) ids += i == 0 ? "5" : ",5";
    return "{\"prompt\":[" + ids + "]" + more + "}";
  };
  EXPECT_EQ(c.post("/v1/completions", body(596, ",\"max_tokens\":4")).status, 200);
  for (const auto& bad : {body(597, ",\"max_tokens\":4"), body(600, ""), body(700, "")}) {
    const auto reply = c.post("/v1/completions", bad);
    EXPECT_EQ(reply.status, 400);
    EXPECT_EQ(json(reply.body).at("error").at("code"), "context_length_exceeded");
    EXPECT_EQ(json(reply.body).at("error").at("param"), "prompt");
  }
  EXPECT_EQ(c.post("/v1/completions", body(599, "")).status, 200);
  EXPECT_EQ(port_.last().request.stop.max_tokens, 1) << "the default is cut to what fits";
}

TEST_F(GatewayTest, UnknownModelsAndFields) {
  port_.set_script(ScriptedPort::tokens({'o'}));
  start();
  auto c = client();
  const auto reply = c.post("/v1/completions", R"({"prompt":"a","model":"gpt"})");
  EXPECT_EQ(reply.status, 404);
  EXPECT_EQ(
      json(reply.body),
      json(
          R"({"error":{"message":"The model `gpt` does not exist. Here is: tiny, org/tiny; default is another name of it.","type":"not_found_error","param":"model","code":"model_not_found"}})"));
  EXPECT_EQ(c.post("/v1/completions", R"({"prompt":"a","model":"org/tiny","foo":1,"bar":{}})").status, 200);
  EXPECT_EQ(unknown_fields_, 2);
}

TEST_F(GatewayTest, RoleDeveloperIsSystemForATemplateThatDoesNotKnowIt) {
  port_.set_script(ScriptedPort::tokens({'o', 'k'}));
  start();
  auto c = client();
  const auto reply = c.post(
      "/v1/chat/completions",
      R"({"messages":[{"role":"developer","content":"brief"},{"role":"user","content":"hi"}],"max_tokens":2})");
  ASSERT_EQ(reply.status, 200) << reply.body;
  const auto prompt = model_.encode_chat(
      R"({"messages":[{"role":"system","content":"brief"},{"role":"user","content":"hi"}],
          "add_generation_prompt":true})");
  ASSERT_TRUE(prompt.ok());
  EXPECT_EQ(port_.last().request.prompt, *prompt);
}

TEST_F(GatewayTest, WhatWouldChangeTheAnswerIsRefusedByItsName) {
  port_.set_script(ScriptedPort::tokens({'o', 'k'}));
  start();
  auto c = client();
  const auto chat = [&](const std::string& more) {
    return c.post("/v1/chat/completions", R"({"messages":[{"role":"user","content":"hi"}],)" + more + "}");
  };
  for (const auto& [field, value] : {std::pair{"modalities", R"(["text","audio"])"},
                                     {"web_search_options", "{}"},
                                     {"audio", "{}"},
                                     {"max_completion_tokens", "0"},
                                     {"functions", R"([{"name":"f"}])"},
                                     {"function_call", R"("auto")"},
                                     {"response_format", R"({"type":"grammar"})"}}) {
    const auto reply = chat("\"" + std::string(field) + "\":" + value);
    EXPECT_EQ(reply.status, 400) << field;
    EXPECT_EQ(json(reply.body).at("error").at("param"), field);
    EXPECT_TRUE(reply.body.contains('`' + std::string(field) + '`')) << reply.body;
  }
  EXPECT_EQ(chat(R"("modalities":["text"])").status, 200);
}

TEST_F(GatewayTest, MinTokensNeedsATokenThatDoesNotEndTheAnswer) {
  port_.set_script(ScriptedPort::tokens({'o', 'k'}));
  start();
  auto c = client();
  std::string ids;
  for (int id = 0; id < kVocab; ++id) ids += (id > 0 ? "," : "") + std::to_string(id);
  const auto complete = [&](const std::string& stops, int min_tokens) {
    return c.post("/v1/completions", R"({"prompt":"a","stop_token_ids":[)" + stops + R"(],"min_tokens":)" +
                                         std::to_string(min_tokens) + "}");
  };
  EXPECT_EQ(complete(ids, 0).status, 200);
  const auto none_left = complete(ids, 1);
  EXPECT_EQ(none_left.status, 400);
  EXPECT_EQ(json(none_left.body).at("error").at("param"), "stop_token_ids");
}

// ---- the other routes

TEST_F(GatewayTest, TokenizeInBothDialects) {
  start();
  auto c = client();
  EXPECT_EQ(json(c.post("/tokenize", R"({"model":"tiny","prompt":"ab"})").body),
            json(R"({"count":3,"max_model_len":600,"tokens":[257,97,98],"token_strs":null})"));
  EXPECT_EQ(
      json(c.post("/v1/tokenize", R"({"prompt":"a","add_special_tokens":false,"return_token_strs":true})")
               .body),
      json(R"({"count":1,"max_model_len":600,"tokens":[97],"token_strs":["a"]})"));
  EXPECT_EQ(json(c.post("/tokenize", R"({"content":"a<end>"})").body), json(R"({"tokens":[97,256]})"));
  const std::string special = R"({"prompt":"a<end>","add_special_tokens":false)";
  EXPECT_EQ(json(c.post("/tokenize", special + "}").body).at("tokens"), json("[97,256]"));
  EXPECT_EQ(json(c.post("/tokenize", special + R"(,"parse_special":false})").body).at("count"), 6);
  EXPECT_EQ(json(c.post("/tokenize", R"({"content":"a","add_special":true,"with_pieces":true})").body),
            json(R"({"tokens":[{"id":257,"piece":"<begin>"},{"id":97,"piece":"a"}]})"));
  const auto chat = json(c.post("/tokenize", R"({"messages":[{"role":"user","content":"x"}]})").body);
  EXPECT_EQ(chat.at("count"), std::string("user:x|assistant:").size());
  EXPECT_EQ(json(c.post("/detokenize", R"({"model":"tiny","tokens":[97,98]})").body).at("prompt"), "ab");
  EXPECT_EQ(json(c.post("/detokenize", R"({"tokens":[97,98]})").body).at("content"), "ab");
  EXPECT_EQ(c.post("/tokenize", "{}").status, 400);
  EXPECT_EQ(c.post("/tokenize", R"({"prompt":7})").status, 400);
  EXPECT_EQ(c.post("/detokenize", R"({"tokens":[99999]})").status, 400);
  EXPECT_EQ(c.post("/detokenize", "{}").status, 400);
}

// What could be no prompt is not worked on for seconds: the bound, and the words, of completions.
TEST_F(GatewayTest, TokenizeIsBoundedLikeAPrompt) {
  start();
  auto c = client();
  const std::string fits(600, 'a'), over(601, 'a');
  const auto prompt = [](const char* field, const std::string& text) {
    return std::string("{\"") + field + "\":\"" + text + "\",\"add_special_tokens\":false}";
  };
  EXPECT_EQ(json(c.post("/tokenize", prompt("prompt", fits)).body).at("count"), 600);
  EXPECT_EQ(c.post("/tokenize", prompt("content", fits)).status, 200);
  const std::string chat = R"({"messages":[{"role":"user","content":")" + over + R"("}]})";
  for (const std::string& body : {prompt("prompt", over), prompt("content", over), chat}) {
    const auto refused = c.post("/tokenize", body);
    EXPECT_EQ(refused.status, 400);
    const auto error = json(refused.body).at("error");
    EXPECT_EQ(error.at("code"), "context_length_exceeded");
    EXPECT_THAT(std::string(error.at("message").as_string()),
                testing::HasSubstr("maximum context length is 600"));
  }
  std::string ids = "97";
  for (int i = 1; i < 600; ++i) ids += ",97";
  EXPECT_EQ(c.post("/detokenize", "{\"tokens\":[" + ids + "]}").status, 200);
  const auto many = c.post("/detokenize", "{\"tokens\":[" + ids + ",97]}");
  EXPECT_EQ(many.status, 400);
  EXPECT_THAT(many.body, testing::HasSubstr("`tokens` must have at most 600 items"));
}

// A tokenizer may know special tokens that the weights have no row for: no prompt may hold one.
TEST_F(GatewayTest, TokensWithoutARowAreRefused) {
  model_.embedding_rows = kUserMark;
  start();
  auto c = client();
  EXPECT_EQ(c.post("/v1/completions", R"({"prompt":[258]})").status, 400);
  EXPECT_EQ(c.post("/v1/completions", R"({"prompt":"a","logit_bias":{"258":1}})").status, 400);
  EXPECT_EQ(c.post("/v1/completions", R"({"prompt":"a","stop_token_ids":[258]})").status, 400);
  EXPECT_EQ(json(c.get("/v1/models").body).at("data").at(0).at("meta").at("n_vocab"), 258);
}

TEST_F(GatewayTest, APromptThatGetsATokenWithoutARowIsRefused) {
  model_.embedding_rows = kBegin;  // which prompts start with
  start();
  auto c = client();
  const auto refused = c.post("/v1/completions", R"({"prompt":"a"})");
  EXPECT_EQ(refused.status, 400);
  EXPECT_THAT(refused.body, testing::HasSubstr("`<begin>` (id 257), which this model's weights do not have"));
}

TEST_F(GatewayTest, ModelsProbesMetricsVersion) {
  start();
  auto c = client();
  const auto list = json(c.get("/v1/models").body);
  EXPECT_EQ(list.at("object"), "list");
  ASSERT_EQ(list.at("data").as_array().size(), 2u);
  EXPECT_EQ(list.at("data").at(0).at("id"), "tiny");
  EXPECT_EQ(list.at("data").at(0).at("max_model_len"), 600);
  EXPECT_EQ(json(c.get("/models/org%2Ftiny").body).at("id"), "org/tiny");
  unix_time_ += 60;
  EXPECT_EQ(json(c.get("/v1/models").body), list) << "created, too, stays what it was";
  EXPECT_EQ(json(c.get("/v1/models/org/tiny").body).at("id"), "org/tiny");
  EXPECT_EQ(json(c.get("/v1/models/default").body).at("id"), "default");
  EXPECT_EQ(json(c.get("/v1/models/default/").body).at("id"), "default");
  EXPECT_EQ(json(c.get("/v1/models/").body).at("object"), "list");
  EXPECT_EQ(c.get("/v1/models/nope").status, 404);
  for (const char* path : {"/health", "/v1/health", "/ping", "/live", "/healthz", "/ready"})
    EXPECT_EQ(c.get(path).status, 200) << path;
  const auto metrics = c.get("/metrics");
  EXPECT_EQ(metrics.body, "baton_up 1\n");
  EXPECT_EQ(metrics.fields.at("content-type"), "text/plain; version=0.0.4; charset=utf-8");
  EXPECT_EQ(json(c.get("/version").body).at("version"), "1.2.3");
}

}  // namespace
}  // namespace baton::coordinator
