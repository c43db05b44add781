#include "binding/addon.h"

namespace understudy::binding {

engine::Negotiated negotiated_from(const Napi::Object &flags) {
  engine::Negotiated negotiated;
  negotiated.structured_replies = flag(flags, "structuredReplies");
  negotiated.extended_headers = flag(flags, "extendedHeaders");
  negotiated.base_allocation_id = static_cast<uint32_t>(number(flags, "baseAllocationId"));
  negotiated.replicated_id = static_cast<uint32_t>(number(flags, "replicatedId"));  // a predecessor may know no such
  negotiated.dirty_id = static_cast<uint32_t>(number(flags, "dirtyId"));
  negotiated.read_only = flag(flags, "readOnly");
  return negotiated;
}

engine::ListenAddress address_from(const Napi::Object &spec) {
  engine::ListenAddress address;
  address.inherited = static_cast<int>(number(spec, "inherited", -1));
  if (text(spec, "kind") == "unix") {
    address.unix_path = text(spec, "path");
    address.mode = static_cast<uint32_t>(number(spec, "mode", 0600));
    address.group_id = static_cast<int64_t>(number(spec, "groupId", -1));
  } else {
    address.host = text(spec, "host");
    address.port = static_cast<uint16_t>(number(spec, "port"));
  }
  return address;
}

Napi::Value Addon::listen(Call call) {
  need_started(call.Env());
  auto listening = acceptor_->listen(address_from(call[0].As<Napi::Object>()));
  require_ok(call.Env(), listening.status);
  Napi::Object result = Napi::Object::New(call.Env());
  result.Set("listener", listening.value.listener);
  result.Set("port", static_cast<uint32_t>(listening.value.port));
  return result;
}

Napi::Value Addon::close_listener(Call call) {
  if (acceptor_) acceptor_->close(call[0].As<Napi::Number>().Uint32Value());
  return call.Env().Undefined();
}

Napi::Value Addon::adopt(Call call) {
  need_started(call.Env());
  const uint32_t id = call[0].As<Napi::Number>().Uint32Value();
  auto [group, volume] = volume_of(call, 1);
  const Napi::Object flags = call[2].As<Napi::Object>();
  const auto early = call[3].As<Napi::Uint8Array>();
  auto state = std::make_shared<engine::ClientState>();
  state->socket = acceptor_->take(id);
  if (!state->socket) return call.Env().Undefined();
  state->negotiated = negotiated_from(flags);
  state->unread.assign(early.Data(), early.Data() + early.ByteLength());
  group->post([group = group, volume = volume, id, state] { group->adopt(id, std::move(*state), *volume); });
  return call.Env().Undefined();
}

Napi::Value Addon::release(Call call) {
  const uint32_t id = call[0].As<Napi::Number>().Uint32Value();
  if (pumps_) pumps_->cancel(id);
  if (acceptor_) acceptor_->take(id);
  return call.Env().Undefined();
}

}  // namespace understudy::binding
