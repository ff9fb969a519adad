// libFuzzer target of the JSON schema layer. Any bytes: an error with a message, or fields within their
// ranges.
#include <boost/json/src.hpp>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "coordinator/gateway/chat_context.h"
#include "coordinator/gateway/json_fields.h"
#include "coordinator/gateway/json_writer.h"

namespace {

using baton::coordinator::JsonFields;

void read_fields(const boost::json::object& object) {
  JsonFields fields(object);
  if (const auto n = fields.integer("n", 1, 16)) BATON_CHECK(*n >= 1 && *n <= 16);
  if (const auto t = fields.number("temperature", 0, 2)) BATON_CHECK(*t >= 0 && *t <= 2);
  if (const auto s = fields.string("stop", 256)) BATON_CHECK(s->size() <= 256);
  if (const auto ids = fields.token_ids("prompt", 1000, 500))
    for (const int32_t id : *ids) BATON_CHECK(id >= 0 && id < 500);
  (void)fields.boolean("stream");
  (void)fields.object("logit_bias");
  BATON_CHECK(fields.unknown_fields().size() <= object.size());
  if (!fields.ok()) BATON_CHECK(!fields.error()->message.empty());

  JsonFields chat(object);
  baton::text::ModelText model;
  model.tool_syntax = baton::text::ToolSyntax::kTags;
  const std::string context = baton::coordinator::read_chat_context(chat, model).json;
  boost::json::error_code ec;
  boost::json::parse_options deep;
  deep.max_depth = 3 * baton::coordinator::kJsonDepth;
  boost::json::parse(context, ec, {}, deep);
  BATON_CHECK(!ec, "what the template gets is JSON");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  const std::string clean = baton::coordinator::to_utf8(body);
  BATON_CHECK(baton::coordinator::to_utf8(clean) == clean);
  boost::json::value value;
  if (const auto error = baton::coordinator::parse_json_object(body, value)) {
    BATON_CHECK(error->status == 400 && !error->message.empty());
    return 0;
  }
  BATON_CHECK(clean == body, "accepted JSON is UTF-8");
  read_fields(value.get_object());
  return 0;
}
