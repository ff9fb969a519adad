#include "tests/golden/golden_file.h"

#include <boost/json.hpp>

#include "base/check.h"
#include "worker/model/mapped_file.h"

namespace baton::testing {
namespace {

namespace json = boost::json;

json::value read_json(const std::string& path) {
  const auto text = worker::read_text_file(path, size_t{64} << 20);
  BATON_CHECK(text.ok(), "cannot read a golden file");
  return json::parse(*text);
}

double number(const json::value& v) { return v.to_number<double>(); }

std::vector<TokenId> ids(const json::value& v) {
  std::vector<TokenId> out;
  for (const auto& id : v.as_array()) out.push_back(id.to_number<TokenId>());
  return out;
}

std::vector<double> numbers(const json::value& v) {
  std::vector<double> out;
  for (const auto& x : v.as_array()) out.push_back(number(x));
  return out;
}

std::vector<TokenLogit> pairs(const json::value& v) {
  std::vector<TokenLogit> out;
  for (const auto& p : v.as_array()) out.emplace_back(p.at(0).to_number<TokenId>(), number(p.at(1)));
  return out;
}

GoldenStep read_step(const json::object& o) {
  GoldenStep step;
  step.next = o.at("next").to_number<TokenId>();
  step.top = pairs(o.at("top5"));
  step.logsumexp = number(o.at("logsumexp"));
  step.margin = number(o.at("margin"));
  if (const auto* gap = o.if_contains("int8_gap")) step.int8_gap = number(*gap);
  if (const auto* near = o.if_contains("near")) step.near = pairs(*near);
  return step;
}

GoldenCase read_case(const json::object& o) {
  GoldenCase c;
  if (const auto* name = o.if_contains("name")) c.name = std::string(name->as_string());
  c.prompt = ids(o.at("prompt_ids"));
  c.greedy = ids(o.at("greedy_ids"));
  for (const auto& step : o.at("steps").as_array()) c.steps.push_back(read_step(step.as_object()));
  if (const auto* mid = o.if_contains("mid"))
    for (const auto& m : mid->as_array())
      c.mid.push_back({m.at("pos").to_number<int32_t>(), pairs(m.at("top10")), number(m.at("logsumexp"))});
  if (const auto* logits = o.if_contains("logits_at_last_prompt_token")) c.logits = numbers(*logits);
  if (const auto* nll = o.if_contains("prompt_nll"); nll != nullptr && nll->is_array())
    c.prompt_nll = numbers(*nll);
  return c;
}

GoldenTrace read_trace_entry(const json::value& v) { return {number(v.at("rms")), numbers(v.at("first8"))}; }

}  // namespace

std::vector<GoldenCase> read_golden_cases(const std::string& path) {
  std::vector<GoldenCase> cases;
  const json::value root = read_json(path);
  for (const auto& c : root.at("cases").as_array()) cases.push_back(read_case(c.as_object()));
  return cases;
}

std::vector<GoldenTrace> read_golden_trace(const std::string& path) {
  const json::value root = read_json(path);
  const json::value& trace = root.at("trace");
  std::vector<GoldenTrace> out = {read_trace_entry(trace.at("embd"))};
  for (const auto& layer : trace.at("layers").as_array()) out.push_back(read_trace_entry(layer));
  out.push_back(read_trace_entry(trace.at("block0").at("q_roped")));
  return out;
}

}  // namespace baton::testing
