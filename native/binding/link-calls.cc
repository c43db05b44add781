#include "binding/addon.h"

namespace understudy::binding {

Napi::Value Addon::open_endpoint(Call call) {
  Napi::Env env = call.Env();
  need_started(env);
  const Napi::Object spec = call[0].As<Napi::Object>();
  quic::EndpointOptions options;
  options.identity.key_pem = text(spec, "identityPem");
  if (has(spec, "listen")) {
    const Napi::Object listen = spec.Get("listen").As<Napi::Object>();
    options.listen_host = text(listen, "host");
    options.listen_port = static_cast<uint16_t>(number(listen, "port"));
  }
  options.idle_timeout_ns = static_cast<uint64_t>(number(spec, "idleTimeoutMs", 5000)) * 1'000'000;
  options.packet_bytes_max = static_cast<size_t>(number(spec, "packetBytesMax", 60000));
  options.bytes_per_second_max = static_cast<uint64_t>(number(spec, "bytesPerSecondMax", 0));
  const uint32_t handle = ++last_handle_;
  auto link = std::make_unique<link::Link>(sink());
  link->handle = handle;
  require_ok(env, link->open(options));
  Napi::Object result = Napi::Object::New(env);
  result.Set("endpoint", handle);
  result.Set("port", static_cast<uint32_t>(link->endpoint().local_port()));
  endpoints_.emplace(handle, std::move(link));
  return result;
}

Napi::Value Addon::close_endpoint(Call call) {
  const auto found = endpoints_.find(call[0].As<Napi::Number>().Uint32Value());
  if (found == endpoints_.end()) return call.Env().Undefined();
  for (auto &[id, entry] : groups_)
    if (entry->link && entry->link->uses(*found->second)) entry->link->leave();
  for (auto &[id, entry] : replicas_)
    if (entry->link->uses(*found->second)) entry->link->detach();
  endpoints_.erase(found);
  return call.Env().Undefined();
}

static link::Link &link_of(std::map<uint32_t, std::unique_ptr<link::Link>> &endpoints, Addon::Call call) {
  const auto found = endpoints.find(call[0].As<Napi::Number>().Uint32Value());
  if (found == endpoints.end()) throw Napi::Error::New(call.Env(), "no such endpoint");
  return *found->second;
}

Napi::Value Addon::allow(Call call) {
  std::set<std::string> fingerprints;
  const Napi::Array list = call[1].As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); i++) fingerprints.insert(list.Get(i).ToString().Utf8Value());
  link_of(endpoints_, call).endpoint().allow(std::move(fingerprints));
  return call.Env().Undefined();
}

Napi::Value Addon::set_identity(Call call) {
  link_of(endpoints_, call).endpoint().set_identity({call[1].ToString().Utf8Value()});
  return call.Env().Undefined();
}

Napi::Value Addon::connect(Call call) {
  link::Link &link = link_of(endpoints_, call);
  const uint64_t session = link.endpoint().connect(call[1].ToString().Utf8Value(),
                                                   static_cast<uint16_t>(call[2].As<Napi::Number>().Uint32Value()),
                                                   call[3].ToString().Utf8Value());
  session_endpoints_[session] = static_cast<uint32_t>(link.handle);
  return to_big(call.Env(), session);
}

link::Link *Addon::link_of_session(uint64_t session) {
  const auto found = session_endpoints_.find(session);
  if (found == session_endpoints_.end()) return nullptr;
  const auto endpoint = endpoints_.find(found->second);
  return endpoint == endpoints_.end() ? nullptr : endpoint->second.get();
}

Napi::Value Addon::close_session(Call call) {
  const uint64_t session = big(call[0]);
  if (link::Link *link = link_of_session(session)) link->endpoint().close(session, call[1].ToString().Utf8Value());
  return call.Env().Undefined();
}

Napi::Value Addon::send(Call call) {
  Napi::Env env = call.Env();
  Napi::Function stringify = env.Global().Get("JSON").As<Napi::Object>().Get("stringify").As<Napi::Function>();
  const std::string json = stringify.Call({call[1]}).ToString().Utf8Value();
  if (json.size() > wire::kFrameBytesMax) throw Napi::RangeError::New(env, "a message has at most 64 KiB");
  const uint64_t session = big(call[0]);
  if (link::Link *link = link_of_session(session)) link->send_json(session, json);
  return env.Undefined();
}

}  // namespace understudy::binding
