// Volumes as devices of this host's kernel: the engine's end of the kernel's socket waits with the acceptor, like that of a
// client that has negotiated, until JavaScript adopts or releases it.
#include <cerrno>

#include "attach/nbd-device.h"
#include "binding/addon.h"
#include "core/memory-guard.h"

namespace understudy::binding {

Napi::Value Addon::guard_memory(Call call) {
  const std::vector<std::string> refused = memory_guard::enable();
  Napi::Array list = Napi::Array::New(call.Env(), refused.size());
  for (uint32_t i = 0; i < refused.size(); i++) list.Set(i, refused[i]);
  return list;
}

Napi::Value Addon::attach_device(Call call) {
  need_started(call.Env());
  const Napi::Object spec = call[0].As<Napi::Object>();
  attach::NbdDevice device;
  device.index = static_cast<uint32_t>(number(spec, "index"));
  device.size_bytes = big(spec, "sizeBytes");
  device.block_bytes = static_cast<uint64_t>(number(spec, "blockBytes", 512));
  device.server_flags = static_cast<uint64_t>(number(spec, "serverFlags"));
  device.dead_seconds = static_cast<uint64_t>(number(spec, "deadSeconds"));
  device.identifier = text(spec, "identifier");
  const bool again = flag(spec, "reconnect");
  const Promise promise(call.Env(), queue_);
  closing_->submit([this, device, again, promise] {
    Result<Fd> engine_end = again ? attach::reconnect_device(device) : attach::connect_device(device);
    if (!engine_end.ok()) return promise.reject(engine_end.status);
    auto end = std::make_shared<Fd>(std::move(engine_end.value));
    promise.resolve([this, end](Napi::Env env) -> Napi::Value {
      const uint32_t connection = acceptor_ ? acceptor_->add(std::move(*end)) : 0;
      return Napi::Number::New(env, connection);
    });
  });
  return promise.promise();
}

Napi::Value Addon::detach_device(Call call) {
  need_started(call.Env());
  const auto index = call[0].As<Napi::Number>().Uint32Value();
  const Promise promise(call.Env(), queue_);
  closing_->submit([index, promise] {
    const Status status = attach::disconnect_device(index);
    status.ok() ? promise.resolve() : promise.reject(status);
  });
  return promise.promise();
}

}  // namespace understudy::binding
