// Pump: one TLS connection, on one thread of its own. GnuTLS works on buffers in memory; the pump moves those.
//
//   handshake()  within its time, the peer judged         transfer()  until either side is gone
//
//   client socket -> cipher_in_ -> gnutls_record_recv -> plain_out_ -> inner (one end of a socketpair)
//   client socket <- cipher_out_ <- gnutls_record_send <------------- inner
#pragma once
#include <gnutls/gnutls.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/fd.h"
#include "core/status.h"
#include "engine/buffer.h"
#include "tls/credentials.h"

namespace understudy::tls {

constexpr size_t kPlainMax = 128u << 10;   // decrypted and not yet taken; beyond it the client waits
constexpr size_t kCipherMax = 128u << 10;  // encrypted and not yet taken by the client; beyond it the engine waits
constexpr int kFarewellMs = 5000;          // after the inner side is done: for the client to take the rest and close

class Pump {
 public:
  // `stop` becomes readable when the process leaves. `early`: what was read of the socket after our last plain word.
  Pump(Fd client, int stop, std::shared_ptr<Credentials> credentials, std::vector<uint8_t> early);
  ~Pump();
  // Good: the session is up. Otherwise the client was told, and linger() gives it the time to hear it.
  Status handshake(int limit_ms);
  void linger();  // reads on: what a refused client still sends must not reset the connection before the alert is read
  std::string describe() const;  // "TLS1.3, certificate CN=alice"
  void transfer(Fd inner);

 private:
  static ssize_t pull(void *pump, void *data, size_t bytes);
  static ssize_t push(void *pump, const void *data, size_t bytes);
  static int pull_timeout(void *pump, unsigned milliseconds);
  Status open_session();
  bool encrypt_some();   // inner to cipher_out_; these say whether anything moved
  bool send_cipher();
  bool receive_cipher();
  bool decrypt_some();   // cipher_in_ to plain_out_
  bool send_plain();
  void say_goodbye();
  bool is_over() const;
  // Until something can move, or `deadline_ns_`.
  void wait();
  void fail() { failed_ = true; }

  Fd client_, inner_;
  const int stop_;
  std::shared_ptr<Credentials> credentials_;
  gnutls_session_t session_ = nullptr;
  engine::Buffer cipher_in_{64u << 10}, cipher_out_{64u << 10}, plain_out_{64u << 10};
  std::unique_ptr<uint8_t[]> plain_in_;     // what encrypt_some() reads into
  uint64_t deadline_ns_ = UINT64_MAX;
  bool client_readable_ = true, client_writable_ = true;  // as far as we know; poll() corrects it
  bool inner_readable_ = false, inner_writable_ = true;
  bool client_ended_ = false;   // its FIN, or its close_notify
  bool inner_ended_ = false;    // nothing more comes from the engine
  bool inner_told_ = false;     // the engine has been told that the client sends no more
  bool client_told_ = false;    // our FIN has gone out
  bool stopping_ = false;
  bool failed_ = false;         // at once over, nothing is owed to anybody
};

}  // namespace understudy::tls
