// Files kept in memory (residency/file-pages.h), all on one thread of their own: reading a cold image takes as long as its
// disk does, and nobody waits for that.
#include "binding/addon.h"

namespace understudy::binding {

// work(pages, promise) settles the promise.
template <typename Work>
Napi::Value Addon::on_pages_thread(Call call, Work work) {
  const auto found = pages_.find(call[0].As<Napi::Number>().Uint32Value());
  if (found == pages_.end()) throw Napi::Error::New(call.Env(), "no such pages");
  const Promise promise(call.Env(), queue_);
  pages_thread_->submit([pages = found->second, promise, work]() mutable {
    work(*pages, promise);
    pages.reset();  // the last one goes here, not on the thread of JavaScript
  });
  return promise.promise();
}

Napi::Value Addon::open_pages(Call call) {
  need_started(call.Env());
  auto pages = residency::FilePages::open(call[0].ToString().Utf8Value(), leaving_);
  require_ok(call.Env(), pages.status);
  if (!pages_thread_) pages_thread_ = std::make_unique<WorkPool>(1);
  pages_.emplace(++last_handle_, std::move(pages.value));
  return Napi::Number::New(call.Env(), last_handle_);
}

Napi::Value Addon::survey_pages(Call call) {
  return on_pages_thread(call, [](residency::FilePages &pages, const Promise &promise) {
    const auto survey = pages.survey();
    if (!survey.ok()) return promise.reject(survey.status);
    promise.resolve([survey = survey.value](Napi::Env env) -> Napi::Value {
      Napi::Object result = Napi::Object::New(env);
      result.Set("dataBytes", static_cast<double>(survey.data_bytes));
      result.Set("residentBytes", static_cast<double>(survey.resident_bytes));
      result.Set("lockedBytes", static_cast<double>(survey.locked_bytes));
      return result;
    });
  });
}

Napi::Value Addon::lock_pages(Call call) {
  const auto step = static_cast<uint64_t>(call[1].As<Napi::Number>().DoubleValue());
  const auto locked_max = static_cast<uint64_t>(call[2].As<Napi::Number>().DoubleValue());
  return on_pages_thread(call, [step, locked_max](residency::FilePages &pages, const Promise &promise) {
    const auto locked = pages.lock(step, locked_max);
    if (!locked.ok()) return promise.reject(locked.status);
    promise.resolve([bytes = locked.value](Napi::Env env) -> Napi::Value {
      return Napi::Number::New(env, static_cast<double>(bytes));
    });
  });
}

Napi::Value Addon::drop_pages(Call call) {
  return on_pages_thread(call, [](residency::FilePages &pages, const Promise &promise) {
    pages.drop();
    promise.resolve();
  });
}

Napi::Value Addon::close_pages(Call call) {
  const auto found = pages_.find(call[0].As<Napi::Number>().Uint32Value());
  if (found == pages_.end()) return call.Env().Undefined();
  pages_thread_->submit([pages = std::move(found->second)] {});
  pages_.erase(found);
  return call.Env().Undefined();
}

}  // namespace understudy::binding
