// Preloaded into linux.uml: Debian's user-mode-linux 6.1 keeps a guest's extended processor state in 2696 bytes and
// panics on processors whose state is larger (AMX). The kernel is asked with a buffer that is large enough; the guest
// gets, and sets, the first part of it, which is all that it knows.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

#define NT_X86_XSTATE 0x202

static char state[65536] __attribute__((aligned(64)));

long ptrace(enum __ptrace_request request, ...) {
  static long (*real)(enum __ptrace_request, ...);
  va_list arguments;
  va_start(arguments, request);
  pid_t process = va_arg(arguments, pid_t);
  void *address = va_arg(arguments, void *);
  void *data = va_arg(arguments, void *);
  va_end(arguments);
  if (real == NULL) *(void **)&real = dlsym(RTLD_NEXT, "ptrace");

  int regset = request == PTRACE_GETREGSET || request == PTRACE_SETREGSET;
  if (!regset || (long)address != NT_X86_XSTATE) return real(request, process, address, data);

  struct iovec *guest = data;
  struct iovec whole = {state, sizeof state};
  if (real(PTRACE_GETREGSET, process, address, &whole) < 0) return -1;
  size_t bytes = guest->iov_len < whole.iov_len ? guest->iov_len : whole.iov_len;
  if (request == PTRACE_GETREGSET) {
    memcpy(guest->iov_base, state, bytes);
    guest->iov_len = bytes;
    return 0;
  }
  memcpy(state, guest->iov_base, bytes);
  return real(PTRACE_SETREGSET, process, address, &whole);
}
