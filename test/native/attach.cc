// sources: native/attach/generic-netlink.cc native/core/core.cc native/core/memory-guard.cc  libs:
// What can be asked of any kernel: generic netlink, and that what is refused of the memory guard is said.
#include <linux/genetlink.h>
#include <linux/netlink.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "attach/generic-netlink.h"
#include "core/memory-guard.h"

using namespace understudy;

static int tests = 0, failures = 0;
static void ok(bool good, const std::string &title) {
  failures += !good;
  printf("%sok %d - %s\n", good ? "" : "not ", ++tests, title.c_str());
}

static void attributes_test() {
  attach::Attributes inner, outer;
  inner.put_u32(1, 7);
  inner.put_text(2, "abc");  // with its end: 4 bytes
  inner.put_text(3, "ab");   // 3, and one of padding
  outer.put_nested(9, inner);
  nlattr head;
  memcpy(&head, outer.bytes().data(), sizeof head);
  ok(inner.bytes().size() == 24 && outer.bytes().size() == 28, "attributes are aligned to 4 bytes");
  ok(head.nla_len == 28 && head.nla_type == (9 | NLA_F_NESTED), "a nested one says so, and how long it is");
}

static void families_test() {
  auto none = attach::GenericNetlink::open("us-no-family");
  ok(none.status.error == ENOENT, "a family that no module has is ENOENT: " + none.status.message);
  auto control = attach::GenericNetlink::open("nlctrl");
  ok(control.ok(), "a family that is there is found");
  attach::Attributes name, wrong;
  name.put_text(CTRL_ATTR_FAMILY_NAME, "nlctrl");
  wrong.put_text(CTRL_ATTR_FAMILY_NAME, "us-no-family");
  ok(control.value.ask(CTRL_CMD_GETFAMILY, name, "ask").ok(), "a good question is acknowledged");
  ok(control.value.ask(CTRL_CMD_GETFAMILY, wrong, "ask").error == ENOENT, "a bad one has the kernel's errno");
  ok(control.value.ask(CTRL_CMD_GETFAMILY, name, "ask").ok(), "and the next one its own answer");
}

static long locked_kib() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;)
    if (word == "VmLck:" && status >> word) return std::stol(word);
  return 0;
}

static bool names(const std::vector<std::string> &messages, const char *what) {
  for (const std::string &message : messages)
    if (message.find(what) != std::string::npos) return true;
  return false;
}

// PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE of linux/sched.h.
static bool is_io_flusher() {
  std::ifstream stat("/proc/thread-self/stat");
  std::string text((std::istreambuf_iterator<char>(stat)), {});
  unsigned long flags = 0;
  sscanf(text.c_str() + text.rfind(')'), ") %*c %*d %*d %*d %*d %*d %lu", &flags);
  return (flags & 0x180000) == 0x180000;
}

static void guard_test() {
  static uint8_t early[64 << 10], late[64 << 10];
  memory_guard::hold(early, sizeof early);
  memory_guard::enter();
  ok(locked_kib() == 0 && !is_io_flusher(), "nothing is locked before it is asked for");
  const std::vector<std::string> refused = memory_guard::enable();
  for (const std::string &message : refused) printf("# %s\n", message.c_str());
  ok(is_io_flusher() != names(refused, "CAP_SYS_RESOURCE"), "this thread allocates without I/O, or it is said why not");
  ok(locked_kib() > 0 || names(refused, "CAP_IPC_LOCK"), "the program is locked, or it is said why not");
  memory_guard::hold(late, sizeof late);
  bool flusher = false;
  std::thread([&] {
    memory_guard::enter();
    flusher = is_io_flusher();
  }).join();
  ok(flusher == is_io_flusher(), "a thread that enters later is as this one");
  ok(memory_guard::enable() == refused, "what is refused is the same when it is asked for again");
}

int main() {
  attributes_test();
  families_test();
  guard_test();
  printf("1..%d\n", tests);
  return failures != 0;
}
