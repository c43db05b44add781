#include <cerrno>

#include "binding/addon.h"

namespace understudy::binding {

Napi::Value Addon::open_replica(Call call) {
  Napi::Env env = call.Env();
  need_started(env);
  const Napi::Object spec = call[0].As<Napi::Object>();
  replay::ReplicaOptions options;
  options.directory = text(spec, "directory");
  const Napi::Array volumes = spec.Get("volumes").As<Napi::Array>();
  for (uint32_t i = 0; i < volumes.Length(); i++) {
    const Napi::Object one = volumes.Get(i).As<Napi::Object>();
    options.volumes.push_back({text(one, "name"), text(one, "imagePath"), big(one, "sizeBytes"), flag(one, "create")});
  }
  if (has(spec, "logBytesMax")) options.log_bytes_max = static_cast<uint64_t>(number(spec, "logBytesMax"));
  if (has(spec, "stagingBytesMax")) options.staging_bytes_max = static_cast<uint64_t>(number(spec, "stagingBytesMax"));
  if (has(spec, "historyAgeMs")) options.history.age_ns_max = static_cast<uint64_t>(number(spec, "historyAgeMs") * 1e6);
  if (has(spec, "historyBytesMax")) options.history.bytes_max = static_cast<uint64_t>(number(spec, "historyBytesMax"));
  options.history.is_held = flag(spec, "holdHistory");
  const uint32_t handle = ++last_handle_;
  const CounterPage page = CounterPages::instance().take();
  auto link = std::make_unique<link::ReplicaLink>(handle, sink(), page);
  auto replica = replay::Replica::open(options, *link);
  if (!replica.ok()) {
    CounterPages::instance().give_back(page);
    throw_status(env, replica.status);
  }
  auto entry = std::make_shared<ReplicaEntry>();
  entry->page = page;
  entry->link = std::move(link);
  entry->replica = std::move(replica.value);
  entry->link->bind(*entry->replica);
  entry->link->publish_counters();
  replicas_.emplace(handle, std::move(entry));
  Napi::Object result = Napi::Object::New(env);
  result.Set("replica", handle);
  result.Set("counterPage", page.number());
  return result;
}

Napi::Value Addon::close_replica(Call call) {
  replicas_.erase(call[0].As<Napi::Number>().Uint32Value());
  return call.Env().Undefined();
}

namespace {
template <typename Map>
auto &replica_of(Map &replicas, const Napi::CallbackInfo &call) {
  const auto found = replicas.find(call[0].As<Napi::Number>().Uint32Value());
  if (found == replicas.end()) throw Napi::Error::New(call.Env(), "no such replica");
  return found->second;
}
}  // namespace

Napi::Value Addon::give_up_cut(Call call) {
  require_ok(call.Env(), replica_of(replicas_, call)->replica->give_up_cut());
  return call.Env().Undefined();
}

Napi::Value Addon::set_staging_max(Call call) {
  replica_of(replicas_, call)->replica->set_staging_max(static_cast<uint64_t>(call[1].As<Napi::Number>().DoubleValue()));
  return call.Env().Undefined();
}

Napi::Value Addon::attach_replica(Call call) {
  Napi::Env env = call.Env();
  auto &entry = replica_of(replicas_, call);
  const uint64_t session = big(call[1]);
  link::Link *link = link_of_session(session);
  if (!link) throw_status(env, Status::failed(ENOTCONN, "attach replica: the session has ended"));
  entry->link->set_lease_max(static_cast<uint64_t>(call[2].As<Napi::Number>().DoubleValue() * 1e6));
  auto position = entry->link->attach(*link, session, link::compression_named(call[3].ToString().Utf8Value()));
  require_ok(env, position.status);
  Napi::Object result = Napi::Object::New(env);
  result.Set("incarnation", to_big(env, position.value.incarnation));
  result.Set("received", to_big(env, position.value.sequence));
  return result;
}

Napi::Value Addon::lease_age_ms(Call call) {
  const uint64_t granted = replica_of(replicas_, call)->link->granted_ns();
  return Napi::Number::New(call.Env(), granted ? static_cast<double>(monotonic_ns() - granted) / 1e6 : -1);
}

// On a thread of its own. work: Result<T>(replica and its link); convert: from T to what JavaScript gets.
template <typename Work, typename Convert>
Napi::Value Addon::ask_replica(Call call, Work work, Convert convert) {
  auto entry = replica_of(replicas_, call);
  const Promise promise(call.Env(), queue_);
  closing_->submit([entry, promise, work, convert]() mutable {
    auto made = work(*entry);
    entry.reset();  // whoever hears of this may close the replica, and expects its files to be free then
    if (!made.ok()) return promise.reject(made.status);
    auto value = std::make_shared<decltype(made.value)>(std::move(made.value));
    promise.resolve([value, convert](Napi::Env env) -> Napi::Value { return convert(env, *value); });
  });
  return promise.promise();
}

namespace {
struct Nothing {};
Napi::Value no_value(Napi::Env env, Nothing) { return env.Undefined(); }
Result<Nothing> done(const Status &status) { return status.ok() ? Result<Nothing>(Nothing{}) : Result<Nothing>(status); }

uint64_t timeout_of(const Napi::CallbackInfo &call) { return static_cast<uint64_t>(call[1].As<Napi::Number>().DoubleValue() * 1e6); }  // in ns

Napi::Object to_position(Napi::Env env, const wire::Position &position) {
  Napi::Object result = Napi::Object::New(env);
  result.Set("incarnation", to_big(env, position.incarnation));
  result.Set("sequence", to_big(env, position.sequence));
  return result;
}

Napi::Object to_point(Napi::Env env, const replay::Point &point) {
  Napi::Object result = to_position(env, point.position);
  result.Set("timeNs", to_big(env, point.time_ns));
  return result;
}

replay::Moment moment_of(const Napi::Value &value) {
  replay::Moment moment;
  if (!value.IsObject()) return moment;
  const Napi::Object object = value.As<Napi::Object>();
  if (has(object, "timeNs"))
    moment.time_ns = big(object, "timeNs");
  else
    moment.position = wire::Position{big(object, "incarnation"), big(object, "sequence")};
  return moment;
}
}  // namespace

Napi::Value Addon::drain_replica(Call call) {
  const auto drain = [timeout_ns = timeout_of(call)](ReplicaEntry &entry) {
    const Status status = entry.replica->drain(timeout_ns);
    entry.link->publish_counters();
    return done(status);
  };
  return ask_replica(call, drain, no_value);
}

Napi::Value Addon::seal_replica(Call call) {
  using Fork = std::optional<wire::Position>;
  const auto seal = [timeout_ns = timeout_of(call), ahead = call[2].ToBoolean().Value()](ReplicaEntry &entry) {
    Fork fork;
    const Status status = entry.replica->seal(timeout_ns, ahead ? &fork : nullptr);
    entry.link->publish_counters();
    return status.ok() ? Result<Fork>(std::move(fork)) : Result<Fork>(status);
  };
  return ask_replica(call, seal, [](Napi::Env env, const Fork &fork) -> Napi::Value {
    return fork ? Napi::Value(to_position(env, *fork)) : env.Undefined();
  });
}

Napi::Value Addon::catch_up_replica(Call call) {
  const auto catch_up = [timeout_ns = timeout_of(call)](ReplicaEntry &entry) { return done(entry.replica->catch_up(timeout_ns)); };
  return ask_replica(call, catch_up, no_value);
}

// A moment of the history is put together from files.
Napi::Value Addon::replica_view_at(Call call) {
  std::vector<size_t> volumes;
  const Napi::Array indices = call[1].As<Napi::Array>();
  for (uint32_t i = 0; i < indices.Length(); i++)
    volumes.push_back(indices.Get(i).As<Napi::Number>().Uint32Value());
  const auto view = [volumes, moment = moment_of(call[2]), writable = call[3].ToBoolean().Value()](ReplicaEntry &entry) {
    return entry.replica->views(volumes, moment, writable);
  };
  return ask_replica(call, view, [this](Napi::Env env, replay::Replica::Views &views) -> Napi::Value {
    Napi::Array handles = Napi::Array::New(env);
    for (uint32_t i = 0; i < views.devices.size(); i++) {
      views_.emplace(++last_handle_, std::move(views.devices[i]));
      handles.Set(i, last_handle_);
    }
    Napi::Object result = Napi::Object::New(env);
    result.Set("views", handles);
    result.Set("point", to_point(env, views.point));
    return result;
  });
}

Napi::Value Addon::clone_image(Call call) {
  const size_t volume = call[1].As<Napi::Number>().Uint32Value();
  const std::string path = call[2].ToString().Utf8Value();
  const auto behind = call[3].As<Napi::Uint8Array>();
  const std::vector<uint8_t> tail(behind.Data(), behind.Data() + behind.ByteLength());
  const auto clone = [volume, path, tail](ReplicaEntry &entry) { return entry.replica->clone(volume, path, tail); };
  return ask_replica(call, clone, to_point);
}

// All that shows it is looked for.
Napi::Value Addon::find_moment(Call call) {
  const auto find = [moment = moment_of(call[1])](ReplicaEntry &entry) { return entry.replica->find(moment); };
  return ask_replica(call, find, [](Napi::Env env, const replay::Replica::Found &found) -> Napi::Value {
    Napi::Object result = to_point(env, found.point);
    result.Set("isWithinStep", Napi::Boolean::New(env, found.is_within_step));
    return result;
  });
}

Napi::Value Addon::stand_aside(Call call) {
  replica_of(replicas_, call)->replica->stand_aside(call[1].ToBoolean().Value());
  return call.Env().Undefined();
}

Napi::Value Addon::hold_history(Call call) {
  replica_of(replicas_, call)->replica->hold_history(call[1].ToBoolean().Value());
  return call.Env().Undefined();
}

// A part with each call: others wait for these threads, too.
Napi::Value Addon::roll_back_replica(Call call) {
  constexpr uint64_t kPartBytes = 16u << 20;
  using RolledBack = replay::Replica::RolledBack;
  const auto roll_back = [to = moment_of(call[1]).position](ReplicaEntry &entry) {
    return to ? entry.replica->roll_back(*to, kPartBytes) : Result<RolledBack>(Status::failed(EINVAL, "roll back: to no position"));
  };
  return ask_replica(call, roll_back, [](Napi::Env env, const RolledBack &made) -> Napi::Value {
    Napi::Object result = Napi::Object::New(env);
    result.Set("doneBytes", static_cast<double>(made.done_bytes));
    result.Set("totalBytes", static_cast<double>(made.total_bytes));
    result.Set("isDone", Napi::Boolean::New(env, made.is_done));
    return result;
  });
}

Napi::Value Addon::replica_history(Call call) {
  Napi::Env env = call.Env();
  const auto summary = replica_of(replicas_, call)->replica->history();
  if (!summary) return env.Null();
  Napi::Object result = Napi::Object::New(env);
  result.Set("oldest", to_point(env, summary->oldest));
  result.Set("newest", to_point(env, summary->newest));
  result.Set("bytes", static_cast<double>(summary->bytes));
  result.Set("savedBytes", static_cast<double>(summary->saved_bytes));
  result.Set("epochs", static_cast<double>(summary->epochs));
  result.Set("segments", static_cast<double>(summary->segments));
  result.Set("compressedSegments", static_cast<double>(summary->compressed_segments));
  result.Set("compressedBytes", static_cast<double>(summary->compressed_bytes));
  result.Set("uncompressedBytes", static_cast<double>(summary->uncompressed_bytes));
  return result;
}

Napi::Value Addon::replica_moments(Call call) {
  const uint64_t from_ns = big(call[1]), to_ns = big(call[2]);
  const auto buckets = static_cast<size_t>(call[3].As<Napi::Number>().Uint32Value());
  const auto look = [from_ns, to_ns, buckets](ReplicaEntry &entry) { return entry.replica->timeline(from_ns, to_ns, buckets); };
  return ask_replica(call, look, [](Napi::Env env, const replay::HistoryTimeline &timeline) -> Napi::Value {
    Napi::Array written = Napi::Array::New(env), flushes = Napi::Array::New(env);
    for (uint32_t i = 0; i < timeline.written_bytes.size(); i++)
      written.Set(i, static_cast<double>(timeline.written_bytes[i]));
    for (uint32_t i = 0; i < timeline.flushes.size(); i++) flushes.Set(i, to_point(env, timeline.flushes[i]));
    Napi::Object result = Napi::Object::New(env);
    result.Set("writtenBytes", written);
    result.Set("flushes", flushes);
    return result;
  });
}

}  // namespace understudy::binding
