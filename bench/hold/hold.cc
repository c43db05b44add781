// Holds one thread of a running program: the rest of it goes on, and finds it as slow as can be.
//
//   hold PID NAME     "held" on stdout once the thread stands still; it goes on when stdin ends, or this program does
//
// It is stopped only while it waits in poll(), so that it has no lock that others need.
#include <dirent.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

namespace {

constexpr useconds_t kAgainUs = 200;
constexpr int kTries = 50'000;  // 10 s and more

std::string line_of(const std::string &path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

[[noreturn]] void fail(const std::string &what) {
  fprintf(stderr, "hold: %s\n", what.c_str());
  exit(1);
}

pid_t thread_named(const std::string &tasks, const std::string &name) {
  DIR *directory = opendir(tasks.c_str());
  if (!directory) fail(tasks + ": " + strerror(errno));
  pid_t found = 0;
  while (const dirent *entry = readdir(directory))
    if (line_of(tasks + entry->d_name + "/comm") == name) {
      if (found) fail("two threads are called " + name);
      found = atoi(entry->d_name);
    }
  closedir(directory);
  if (!found) fail("no thread is called " + name);
  return found;
}

bool is_in_poll(const std::string &task) {
  const std::string call = line_of(task + "/syscall");  // its number, or "running"
  if (call.empty() || call[0] < '0' || call[0] > '9') return false;
  const long number = atol(call.c_str());
#ifdef SYS_poll
  if (number == SYS_poll) return true;
#endif
  return number == SYS_ppoll;
}

// False: it was in the middle of something, and goes on.
bool stopped_in_poll(pid_t thread, const std::string &task) {
  if (ptrace(PTRACE_INTERRUPT, thread, 0, 0) != 0) fail(std::string("interrupt: ") + strerror(errno));
  int status;
  if (waitpid(thread, &status, __WALL) != thread || !WIFSTOPPED(status)) fail("the thread has ended");
  if (is_in_poll(task)) return true;
  if (ptrace(PTRACE_CONT, thread, 0, 0) != 0) fail(std::string("continue: ") + strerror(errno));
  return false;
}

}  // namespace

int main(int argc, char **argv) {
  if (argc != 3) fail("hold PID NAME");
  const std::string tasks = std::string("/proc/") + argv[1] + "/task/";
  const pid_t thread = thread_named(tasks, argv[2]);
  const std::string task = tasks + std::to_string(thread);
  if (ptrace(PTRACE_SEIZE, thread, 0, 0) != 0) fail(std::string("seize: ") + strerror(errno));
  int tries = 0;
  while (!is_in_poll(task) || !stopped_in_poll(thread, task)) {
    if (++tries == kTries) fail(std::string(argv[2]) + " does not wait in poll()");
    usleep(kAgainUs);
  }
  puts("held");
  fflush(stdout);
  char byte;
  while (read(STDIN_FILENO, &byte, 1) > 0) {
  }
  ptrace(PTRACE_DETACH, thread, 0, 0);
}
