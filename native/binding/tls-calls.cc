// TLS of NBD clients: an accepted connection is taken, secured on a thread of its own, and comes back under its old number
// as one end of a socketpair.
#include <fcntl.h>

#include <cerrno>

#include "binding/addon.h"

namespace understudy::binding {

Napi::Value Addon::tls_credentials(Call call) {
  need_started(call.Env());
  const Napi::Object spec = call[0].As<Napi::Object>();
  tls::CredentialsSpec wanted;
  wanted.certificate_pem = text(spec, "certificate");
  wanted.key_pem = text(spec, "key");
  wanted.ca_pem = text(spec, "authorities");
  wanted.crl_pem = text(spec, "revoked");
  wanted.verify_peer = flag(spec, "verifyPeer");
  const auto users = spec.Get("psk").As<Napi::Array>();
  for (uint32_t i = 0; i < users.Length(); i++) {
    const Napi::Object user = users.Get(i).As<Napi::Object>();
    const auto key = user.Get("key").As<Napi::Uint8Array>();
    wanted.psk.emplace_back(text(user, "user"), std::vector<uint8_t>(key.Data(), key.Data() + key.ByteLength()));
  }
  auto credentials = tls::Credentials::create(std::move(wanted));
  require_ok(call.Env(), credentials.status);
  tls_credentials_[++last_handle_] = std::move(credentials.value);
  return Napi::Number::New(call.Env(), last_handle_);
}

Napi::Value Addon::drop_tls_credentials(Call call) {
  tls_credentials_.erase(call[0].As<Napi::Number>().Uint32Value());
  return call.Env().Undefined();
}

Napi::Value Addon::start_tls(Call call) {
  Napi::Env env = call.Env();
  need_started(env);
  const uint32_t id = call[0].As<Napi::Number>().Uint32Value();
  const auto credentials = tls_credentials_.find(call[1].As<Napi::Number>().Uint32Value());
  if (credentials == tls_credentials_.end()) throw Napi::Error::New(env, "startTls: no such credentials");
  const auto early = call[2].As<Napi::Uint8Array>();
  const int limit_ms = call[3].As<Napi::Number>().Int32Value();
  Promise promise(env, queue_);
  const auto ready = [this, id, promise](Result<tls::Pumps::Secured> secured) {
    if (!secured.ok()) return promise.reject(secured.status);
    auto inner = std::make_shared<Fd>(std::move(secured.value.inner));
    promise.resolve([this, id, inner, description = secured.value.description](Napi::Env env) {
      const int duplicate = fcntl(inner->get(), F_DUPFD_CLOEXEC, 3);
      Napi::Object result = Napi::Object::New(env);
      // No stream (-1): the caller ends the connection, and the pump sees the end of its own side.
      const bool kept = duplicate >= 0 && acceptor_ && acceptor_->put(id, std::move(*inner));
      if (!kept && duplicate >= 0) ::close(duplicate);
      result.Set("fd", kept ? duplicate : -1);
      result.Set("description", description);
      return result;
    });
  };
  Fd client = acceptor_->take(id);
  Status status = client ? pumps_->start(id, std::move(client), {early.Data(), early.Data() + early.ByteLength()},
                                         credentials->second, limit_ms, ready)
                         : Status::failed(ENOTCONN, "startTls");
  if (!status.ok()) promise.reject(status);
  return promise.promise();
}

}  // namespace understudy::binding
