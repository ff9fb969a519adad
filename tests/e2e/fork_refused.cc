// Preloaded: while the file that $BATON_TEST_NO_FORK names is there, there is no room for another process.
#include <dlfcn.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

extern "C" pid_t fork() {
  const char* const file = std::getenv("BATON_TEST_NO_FORK");
  if (file != nullptr && ::access(file, F_OK) == 0) {
    errno = EAGAIN;
    return -1;
  }
  return reinterpret_cast<pid_t (*)()>(::dlsym(RTLD_NEXT, "fork"))();
}
