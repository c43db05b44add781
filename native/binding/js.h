// Small bridges between N-API and the native halves.
#pragma once
#include <napi.h>

#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "core/event.h"
#include "core/status.h"

namespace understudy::binding {

// Throws a JavaScript Error whose `code` is the errno's name; what() is the whole message.
[[noreturn]] void throw_status(Napi::Env env, const Status &status);
inline void require_ok(Napi::Env env, const Status &status) {
  if (!status.ok()) throw_status(env, status);
}
Napi::Error to_error(Napi::Env env, const Status &status);

std::string text(const Napi::Object &object, const char *key, const std::string &otherwise = "");
double number(const Napi::Object &object, const char *key, double otherwise = 0);
uint64_t big(const Napi::Object &object, const char *key);
uint64_t big(const Napi::Value &value);
bool flag(const Napi::Object &object, const char *key);
bool has(const Napi::Object &object, const char *key);
inline Napi::BigInt to_big(Napi::Env env, uint64_t value) { return Napi::BigInt::New(env, value); }
Napi::Object to_object(Napi::Env env, const Event &event);

// Runs functions on the JavaScript thread, from any thread.
class JsQueue {
 public:
  using Task = std::function<void(Napi::Env env)>;
  void open(Napi::Env env);
  void post(Task task);  // dropped once closed
  void close();

 private:
  struct Context {};
  static void call(Napi::Env env, Napi::Function, Context *, Task *task);
  using Function = Napi::TypedThreadSafeFunction<Context, Task, call>;
  std::mutex mutex_;
  bool open_ = false;
  Function function_;
};

// A promise that a native thread settles.
class Promise {
 public:
  Promise(Napi::Env env, JsQueue &queue)
      : deferred_(std::make_shared<Napi::Promise::Deferred>(Napi::Promise::Deferred::New(env))), queue_(&queue) {}
  Napi::Promise promise() const { return deferred_->Promise(); }
  void resolve(std::function<Napi::Value(Napi::Env)> make) const {
    queue_->post([deferred = deferred_, make](Napi::Env env) { deferred->Resolve(make(env)); });
  }
  void resolve() const {
    resolve([](Napi::Env env) { return env.Undefined(); });
  }
  void reject(const Status &status) const {
    queue_->post([deferred = deferred_, status](Napi::Env env) { deferred->Reject(to_error(env, status).Value()); });
  }

 private:
  std::shared_ptr<Napi::Promise::Deferred> deferred_;
  JsQueue *queue_;
};

}  // namespace understudy::binding
