#pragma once

#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>

namespace baton {

// In a child process: the kernel kills it when the thread that forked it is gone. `parent` is that process,
// asked before the fork; false when it is gone already.
inline bool end_with(pid_t parent) {
  return ::prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && ::getppid() == parent;
}

}  // namespace baton
