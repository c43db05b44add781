#include "tls/pump.h"

#include <gnutls/x509.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/clock.h"

namespace understudy::tls {
namespace {

constexpr size_t kReadBytes = 64u << 10;
constexpr size_t kRecordBytes = 16u << 10;  // the most one record decrypts to
constexpr int kRefusedMs = 1000;            // for a client that failed the handshake to read why
constexpr int kStopMs = 1000;               // when the process leaves: for what is on its way to the client

bool would_block(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

uint64_t in_ms(int milliseconds) { return monotonic_ns() + static_cast<uint64_t>(milliseconds) * 1'000'000; }

std::string certificate_name(gnutls_session_t session) {
  unsigned count = 0;
  const gnutls_datum_t *chain = gnutls_certificate_get_peers(session, &count);
  if (!chain || count == 0) return "no client certificate";
  gnutls_x509_crt_t certificate = nullptr;
  gnutls_datum_t name{};
  std::string text = "a client certificate";
  if (gnutls_x509_crt_init(&certificate) != 0) return text;
  if (gnutls_x509_crt_import(certificate, &chain[0], GNUTLS_X509_FMT_DER) == 0 &&
      gnutls_x509_crt_get_dn3(certificate, &name, 0) == 0) {
    text = "client certificate " + std::string(reinterpret_cast<char *>(name.data), name.size);
    gnutls_free(name.data);
  }
  gnutls_x509_crt_deinit(certificate);
  return text;
}

}  // namespace

Pump::Pump(Fd client, int stop, std::shared_ptr<Credentials> credentials, std::vector<uint8_t> early)
    : client_(std::move(client)), stop_(stop), credentials_(std::move(credentials)) {
  cipher_in_.append(early.data(), early.size());
}

Pump::~Pump() {
  if (session_) gnutls_deinit(session_);
}

Status Pump::open_session() {
  if (int error = gnutls_init(&session_, GNUTLS_SERVER | GNUTLS_NONBLOCK | GNUTLS_NO_TICKETS | GNUTLS_NO_SIGNAL)) {
    Status status = Status::failed(ENOMEM, "TLS session");
    status.message = std::string("TLS session: ") + gnutls_strerror(error);
    return status;
  }
  gnutls_transport_set_ptr(session_, this);
  gnutls_transport_set_pull_function(session_, pull);
  gnutls_transport_set_push_function(session_, push);
  gnutls_transport_set_pull_timeout_function(session_, pull_timeout);
  gnutls_handshake_set_timeout(session_, GNUTLS_INDEFINITE_TIMEOUT);  // the limit is ours
  return credentials_->apply(session_);
}

// Of a certificate that was not accepted, GnuTLS says separately what is wrong with it.
static std::string why_refused(gnutls_session_t session, int error) {
  gnutls_datum_t words{};
  if (error != GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR ||
      gnutls_certificate_verification_status_print(gnutls_session_get_verify_cert_status(session), GNUTLS_CRT_X509,
                                                   &words, 0) != 0)
    return gnutls_strerror(error);
  std::string text(reinterpret_cast<char *>(words.data), words.size);
  gnutls_free(words.data);
  return text;
}

Status Pump::handshake(int limit_ms) {
  Status status = open_session();
  if (!status.ok()) return status;
  deadline_ns_ = in_ms(limit_ms);
  for (;;) {
    const int result = gnutls_handshake(session_);
    const bool refused = result < 0 && gnutls_error_is_fatal(result);
    if (refused) gnutls_alert_send_appropriate(session_, result);
    send_cipher();
    if (refused) {
      status = Status::failed(EPROTO, "TLS handshake");
      status.message = std::string("TLS handshake: ") + why_refused(session_, result);
      return status;
    }
    if (result == 0 && cipher_out_.empty()) break;
    if (failed_ || client_ended_) return Status::failed(ECONNRESET, "TLS handshake: the client left");
    if (stopping_) return Status::failed(ECANCELED, "TLS handshake");
    if (monotonic_ns() >= deadline_ns_) return Status::failed(ETIMEDOUT, "TLS handshake");
    if (!receive_cipher()) wait();
  }
  deadline_ns_ = UINT64_MAX;
  return Status::good();
}

void Pump::linger() {
  shutdown(client_.get(), SHUT_WR);
  deadline_ns_ = in_ms(kRefusedMs);
  while (!client_ended_ && !failed_ && !stopping_ && monotonic_ns() < deadline_ns_) {
    cipher_in_.consume(cipher_in_.size());
    if (!receive_cipher()) wait();
  }
}

std::string Pump::describe() const {
  const char *version = gnutls_protocol_get_name(gnutls_protocol_get_version(session_));
  const std::string text = version ? version : "TLS";
  if (gnutls_auth_get_type(session_) != GNUTLS_CRD_PSK) return text + ", " + certificate_name(session_);
  const char *user = gnutls_psk_server_get_username(session_);
  return text + ", pre-shared key of " + (user ? user : "nobody");
}

void Pump::transfer(Fd inner) {
  inner_ = std::move(inner);
  inner_readable_ = true;
  plain_in_ = std::make_unique_for_overwrite<uint8_t[]>(kReadBytes);
  while (!is_over()) {
    bool moved = encrypt_some();
    moved |= send_cipher();
    moved |= receive_cipher();
    moved |= decrypt_some();
    moved |= send_plain();
    if (!moved && !is_over()) wait();
  }
}

bool Pump::is_over() const {
  return failed_ || (client_ended_ && inner_ended_ && cipher_out_.empty()) || monotonic_ns() >= deadline_ns_;
}

bool Pump::encrypt_some() {
  if (inner_ended_ || !inner_readable_ || cipher_out_.size() >= kCipherMax) return false;
  const ssize_t got = recv(inner_.get(), plain_in_.get(), kReadBytes, MSG_DONTWAIT);
  if (got < 0 && would_block(errno)) {
    inner_readable_ = errno == EINTR;
    return false;
  }
  if (got <= 0) {
    say_goodbye();
    return true;
  }
  for (ssize_t at = 0; at < got && !failed_;) {
    const ssize_t sent = gnutls_record_send(session_, plain_in_.get() + at, static_cast<size_t>(got - at));
    if (sent < 0) fail();  // push() takes everything: there is nothing to wait for
    at += sent;
  }
  return true;
}

// The engine or the handshake has closed its end: our close_notify follows what it has said.
void Pump::say_goodbye() {
  inner_ended_ = true;
  gnutls_bye(session_, GNUTLS_SHUT_WR);
  deadline_ns_ = std::min(deadline_ns_, in_ms(kFarewellMs));
}

bool Pump::send_cipher() {
  bool moved = false;
  while (!cipher_out_.empty() && client_writable_ && !failed_) {
    const ssize_t sent = send(client_.get(), cipher_out_.begin(), cipher_out_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0) {
      cipher_out_.consume(static_cast<size_t>(sent));
      moved = true;
    } else if (errno != EINTR) {
      client_writable_ = false;
      if (!would_block(errno)) fail();
    }
  }
  if (inner_ended_ && cipher_out_.empty() && !client_told_) {
    client_told_ = true;
    shutdown(client_.get(), SHUT_WR);
  }
  return moved;
}

bool Pump::receive_cipher() {
  if (client_ended_ || !client_readable_ || plain_out_.size() >= kPlainMax) return false;
  // Replies of GnuTLS itself (to a key update) count as output: who does not read them is not read from.
  if (cipher_in_.size() >= kCipherMax || cipher_out_.size() >= kCipherMax) return false;
  cipher_in_.reserve(kReadBytes);
  const ssize_t got = recv(client_.get(), cipher_in_.end(), kReadBytes, MSG_DONTWAIT);
  if (got > 0) {
    cipher_in_.grow(static_cast<size_t>(got));
    if (static_cast<size_t>(got) < kReadBytes) client_readable_ = false;
    return true;
  }
  if (got == 0) {
    client_ended_ = true;
    return true;
  }
  client_readable_ = errno == EINTR;
  if (!would_block(errno)) fail();
  return false;
}

bool Pump::decrypt_some() {
  bool moved = false;
  while (plain_out_.size() < kPlainMax && !failed_) {
    plain_out_.reserve(kRecordBytes);
    const ssize_t got = gnutls_record_recv(session_, plain_out_.end(), kRecordBytes);
    if (got == GNUTLS_E_AGAIN || got == GNUTLS_E_INTERRUPTED) break;
    if (got > 0) {
      // The engine has left: what still comes is thrown away.
      if (!inner_ended_) plain_out_.grow(static_cast<size_t>(got));
      moved = true;
    } else if (got == 0 || got == GNUTLS_E_PREMATURE_TERMINATION) {
      client_ended_ = true;
      break;
    } else if (got == GNUTLS_E_REHANDSHAKE || gnutls_error_is_fatal(static_cast<int>(got))) {
      fail();
    }
  }
  return moved;
}

bool Pump::send_plain() {
  bool moved = false;
  if (inner_ended_) plain_out_.consume(plain_out_.size());
  while (!plain_out_.empty() && inner_writable_) {
    const ssize_t sent = send(inner_.get(), plain_out_.begin(), plain_out_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0) {
      plain_out_.consume(static_cast<size_t>(sent));
      moved = true;
    } else if (would_block(errno)) {
      inner_writable_ = errno == EINTR;
    } else {
      plain_out_.consume(plain_out_.size());  // it reads no more; what it has to say still goes out
    }
  }
  if (client_ended_ && plain_out_.empty() && !inner_told_) {
    inner_told_ = true;
    shutdown(inner_.get(), SHUT_WR);
    moved = true;
  }
  return moved;
}

void Pump::wait() {
  const bool reads_client = !client_ended_ && plain_out_.size() < kPlainMax && cipher_out_.size() < kCipherMax;
  const bool reads_inner = inner_ && !inner_ended_ && cipher_out_.size() < kCipherMax;
  const bool writes_inner = inner_ && !plain_out_.empty();
  const auto events = [](bool in, bool out) { return static_cast<short>((in ? POLLIN : 0) | (out ? POLLOUT : 0)); };
  pollfd polled[3] = {
      {client_ended_ && cipher_out_.empty() ? -1 : client_.get(), events(reads_client, !cipher_out_.empty()), 0},
      {reads_inner || writes_inner ? inner_.get() : -1, events(reads_inner, writes_inner), 0},
      {stopping_ ? -1 : stop_, POLLIN, 0},
  };
  const uint64_t now = monotonic_ns();
  const uint64_t left_ms = deadline_ns_ <= now ? 0 : (deadline_ns_ - now) / 1'000'000 + 1;
  const int timeout = deadline_ns_ == UINT64_MAX ? -1 : static_cast<int>(left_ms);
  if (poll(polled, 3, timeout) <= 0) return;
  // An aborted connection is noticed also while nothing is wanted of it.
  const bool gone = (polled[0].revents & POLLERR) || ((polled[0].revents & POLLHUP) && !reads_client);
  if (gone) fail();
  if (polled[0].revents & (POLLIN | POLLHUP)) client_readable_ = true;
  if (polled[0].revents & POLLOUT) client_writable_ = true;
  if (polled[1].revents & (POLLIN | POLLHUP | POLLERR)) inner_readable_ = true;
  if (polled[1].revents & (POLLOUT | POLLHUP | POLLERR)) inner_writable_ = true;
  if (polled[2].revents) {
    stopping_ = true;
    deadline_ns_ = std::min(deadline_ns_, in_ms(kStopMs));
  }
}

ssize_t Pump::pull(void *pump, void *data, size_t bytes) {
  auto *self = static_cast<Pump *>(pump);
  const size_t taken = std::min(bytes, self->cipher_in_.size());
  if (taken == 0) {
    if (self->client_ended_) return 0;
    gnutls_transport_set_errno(self->session_, EAGAIN);
    return -1;
  }
  memcpy(data, self->cipher_in_.begin(), taken);
  self->cipher_in_.consume(taken);
  return static_cast<ssize_t>(taken);
}

ssize_t Pump::push(void *pump, const void *data, size_t bytes) {
  static_cast<Pump *>(pump)->cipher_out_.append(data, bytes);
  return static_cast<ssize_t>(bytes);
}

int Pump::pull_timeout(void *pump, unsigned) {
  auto *self = static_cast<Pump *>(pump);
  return !self->cipher_in_.empty() || self->client_ended_ ? 1 : 0;
}

}  // namespace understudy::tls
