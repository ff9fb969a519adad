#pragma once

#include <string>

namespace baton::transport {

// Equal for two processes exactly when one can open the other's shared pool: the kernel's boot id and the PID
// namespace (the pool is opened through /proc). Empty when the system does not tell; an empty id equals no
// other.
std::string host_id();

}  // namespace baton::transport
