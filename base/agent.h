#pragma once

#include <functional>
#include <stop_token>
#include <string>
#include <thread>

namespace baton {

// A named thread that runs one loop until it is told to stop. Threads are started only where a process is
// wired (cli/): that file is the map of who runs where. The destructor asks the loop to stop and joins.
class AgentThread {
 public:
  AgentThread(const std::string& name, std::function<void(std::stop_token)> body);
  void request_stop() { thread_.request_stop(); }
  void join() { thread_.join(); }

 private:
  std::jthread thread_;
};

}  // namespace baton
