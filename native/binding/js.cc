#include "binding/js.h"

#include <cstring>

namespace understudy::binding {

Napi::Error to_error(Napi::Env env, const Status &status) {
  Napi::Error error = Napi::Error::New(env, status.message);
  const char *name = strerrorname_np(status.error);
  error.Set("code", Napi::String::New(env, name ? name : "EIO"));
  return error;
}

void throw_status(Napi::Env env, const Status &status) { throw to_error(env, status); }

bool has(const Napi::Object &object, const char *key) {
  const Napi::Value value = object.Get(key);
  return !value.IsUndefined() && !value.IsNull();
}

std::string text(const Napi::Object &object, const char *key, const std::string &otherwise) {
  return has(object, key) ? object.Get(key).ToString().Utf8Value() : otherwise;
}

double number(const Napi::Object &object, const char *key, double otherwise) {
  return has(object, key) ? object.Get(key).ToNumber().DoubleValue() : otherwise;
}

uint64_t big(const Napi::Value &value) {
  bool lossless = false;
  return value.As<Napi::BigInt>().Uint64Value(&lossless);
}

uint64_t big(const Napi::Object &object, const char *key) {
  const Napi::Value value = object.Get(key);
  if (!value.IsBigInt()) throw Napi::TypeError::New(object.Env(), std::string(key) + ": a bigint is wanted");
  return big(value);
}

bool flag(const Napi::Object &object, const char *key) { return object.Get(key).ToBoolean().Value(); }

Napi::Object to_object(Napi::Env env, const Event &event) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("type", event.type);
  for (const auto &[key, value] : event.fields) {
    Napi::Value converted = std::visit(
        [env](const auto &plain) -> Napi::Value {
          using T = std::decay_t<decltype(plain)>;
          if constexpr (std::is_same_v<T, std::string>) return Napi::String::New(env, plain);
          if constexpr (std::is_same_v<T, double>) return Napi::Number::New(env, plain);
          if constexpr (std::is_same_v<T, bool>) return Napi::Boolean::New(env, plain);
          if constexpr (std::is_same_v<T, uint64_t>) return Napi::BigInt::New(env, plain);
        },
        value);
    object.Set(key, converted);
  }
  if (event.json.empty()) return object;
  // The peer chose these bytes: what is no JSON reaches JavaScript as null.
  Napi::Function parse = env.Global().Get("JSON").As<Napi::Object>().Get("parse").As<Napi::Function>();
  try {
    object.Set("message", parse.Call({Napi::String::New(env, event.json)}));
  } catch (const Napi::Error &) {
    object.Set("message", env.Null());
  }
  return object;
}

void JsQueue::call(Napi::Env env, Napi::Function, Context *, Task *task) {
  const std::unique_ptr<Task> owned(task);
  if (static_cast<napi_env>(env) != nullptr) (*owned)(env);
}

void JsQueue::open(Napi::Env env) {
  std::lock_guard lock(mutex_);
  function_ = Function::New(env, "understudy", 0, 1);
  open_ = true;
}

void JsQueue::post(Task task) {
  std::lock_guard lock(mutex_);
  if (!open_) return;
  auto *owned = new Task(std::move(task));
  if (function_.NonBlockingCall(owned) != napi_ok) delete owned;
}

void JsQueue::close() {
  std::lock_guard lock(mutex_);
  if (!open_) return;
  open_ = false;
  function_.Release();
}

}  // namespace understudy::binding
