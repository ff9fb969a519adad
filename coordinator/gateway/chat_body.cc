#include "coordinator/gateway/chat_body.h"

#include <utility>

#include "coordinator/gateway/json_fields.h"

namespace baton::coordinator {

namespace json = boost::json;

json::object text_part(std::string_view text) { return {{"type", "text"}, {"text", text}}; }

bool ChatMessages::ends_in(std::string_view role) const {
  return !messages_.empty() && std::string_view(messages_.back().at("role").get_string()) == role;
}

bool ChatMessages::ends_in_call() const {
  return ends_in("assistant") && messages_.back().get_object().contains("tool_calls");
}

json::object& ChatMessages::turn(std::string_view role) {
  if (!ends_in(role)) messages_.push_back(json::object{{"role", role}, {"content", json::array()}});
  return messages_.back().get_object();
}

void ChatMessages::add_text(std::string_view role, std::string_view text) {
  turn(role)["content"].get_array().push_back(text_part(text));
}

void ChatMessages::add_thoughts(std::string_view text) {
  json::value& all = turn("assistant")["reasoning_content"];
  if (!all.is_string()) {
    all = text;
  } else {
    all.get_string().append("\n").append(text);
  }
}

void ChatMessages::add_call(const std::string& id, const std::string& name, json::value arguments) {
  called_[id] = name;
  json::value& calls = turn("assistant")["tool_calls"];
  if (calls.is_null()) calls.emplace_array();
  json::object function{{"name", name}, {"arguments", std::move(arguments)}};
  calls.get_array().push_back(
      json::object{{"id", id}, {"type", "function"}, {"function", std::move(function)}});
}

void ChatMessages::add_result(const std::string& id, json::value content) {
  // The turn that this is a part of has said nothing before it.
  if (ends_in("user") && is_empty(messages_.back().at("content"))) messages_.pop_back();
  json::object message{{"role", "tool"}, {"tool_call_id", id}, {"content", std::move(content)}};
  if (const auto called = called_.find(id); called != called_.end()) message["name"] = called->second;
  messages_.push_back(std::move(message));
}

}  // namespace baton::coordinator
