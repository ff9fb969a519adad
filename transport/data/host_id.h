#pragma once

#include <string>

namespace baton::transport {

// Equal for two processes that share a host: the kernel's boot id, the PID namespace (a shared pool is opened
// through /proc) and the network namespace (containers with addresses of their own count as hosts). Empty
// when the system does not tell; an empty id equals no other.
std::string host_id();

// One machine under both, though perhaps not one host: nothing lies between them but memory.
bool same_machine(const std::string& host_id, const std::string& other);

}  // namespace baton::transport
