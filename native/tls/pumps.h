// Pumps: the TLS connections of the process, a thread each. At most kPumpsMax; when one ends nothing of it stays behind.
#pragma once
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "core/fd.h"
#include "core/status.h"
#include "tls/pump.h"

namespace understudy::tls {

class Pumps {
 public:
  static constexpr size_t kPumpsMax = 4096;  // one thread each; --max-connections is what an operator sets

  struct Secured {
    Fd inner;                 // plaintext: what the client says, and where to answer
    std::string description;  // of the session, for the log
  };
  using Ready = std::function<void(Result<Secured>)>;  // once, on the pump's thread

  Pumps();
  ~Pumps();  // gives what is on its way a second, then joins all
  // EAGAIN: there are too many. `ready` is not called then.
  Status start(uint32_t connection, Fd client, std::vector<uint8_t> early, std::shared_ptr<Credentials> credentials,
               int handshake_ms, Ready ready);
  // Ends a handshake that nobody waits for any more; does nothing after it.
  void cancel(uint32_t connection);

 private:
  void run(uint32_t connection, Pump &pump, int handshake_ms, const Ready &ready);
  void end(uint32_t connection);

  Fd stop_;
  std::mutex mutex_;
  std::condition_variable none_left_;
  std::map<uint32_t, std::thread> threads_;
  std::map<uint32_t, int> in_handshake_;  // connection to its socket, which is open as long as it is listed here
  std::thread ended_;                     // the one that ended last; whoever ends next joins it
};

}  // namespace understudy::tls
