// A named thread that leaves all signals to Node's main thread. It must be joined before the object goes.
#pragma once
#include <pthread.h>
#include <signal.h>

#include <functional>
#include <string>
#include <thread>

namespace understudy {
inline std::thread start_thread(std::string name, std::function<void()> body) {
  return std::thread([name = std::move(name), body = std::move(body)] {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, nullptr);
    pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
    body();
  });
}
}  // namespace understudy
