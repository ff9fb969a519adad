#pragma once

#include <boost/json.hpp>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace baton::coordinator {

// Of one chat.
inline constexpr size_t kMaxMessages = 8192;

// A body of another API as the body of a chat that asks for the same.
struct ChatBody {
  boost::json::object body;
  std::vector<std::string> unknown_fields;
  std::string told;  // members of a JSON object that the answer repeats
};

// Builds the `messages` of a chat from the pieces of which other APIs make a conversation. Pieces of one role
// in a row are one message. Thread: its owner.
class ChatMessages {
 public:
  // The role's message, though nothing be said in it.
  void begin(std::string_view role) { turn(role); }
  void add_text(std::string_view role, std::string_view text);
  // The assistant's: what it thought, and what it called; `arguments` are an object or its text.
  void add_thoughts(std::string_view text);
  void add_call(const std::string& id, const std::string& name, boost::json::value arguments);
  // Content: a string or a list of text parts.
  void add_result(const std::string& id, boost::json::value content);

  bool too_many() const { return messages_.size() > kMaxMessages; }
  bool ends_in(std::string_view role) const;
  bool ends_in_call() const;
  boost::json::array take() { return std::move(messages_); }

 private:
  boost::json::object& turn(std::string_view role);

  boost::json::array messages_;
  std::map<std::string, std::string> called_;  // names of tools, by the ids of their calls
};

boost::json::object text_part(std::string_view text);

}  // namespace baton::coordinator
