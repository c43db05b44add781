#include <cerrno>

#include "binding/addon.h"
#include "core/clock.h"
#include "engine/tailed-device.h"
#include "partition/partitions.h"

namespace understudy::binding {

Napi::BigUint64Array array_from(Napi::Env env, const engine::RangeTable &table) {
  Napi::BigUint64Array array = Napi::BigUint64Array::New(env, table.size() * 2);
  size_t at = 0;
  table.each([&](uint64_t start, uint64_t end) { array[at++] = start, array[at++] = end; });
  return array;
}

namespace {

engine::RangeTable table_from(Napi::Env env, const Napi::Value &value) {
  if (value.IsUndefined() || value.IsNull()) return {};
  const auto words = value.As<Napi::BigUint64Array>();
  std::vector<engine::Range> ranges;
  for (size_t i = 0; i + 1 < words.ElementLength(); i += 2) ranges.push_back({words[i], words[i + 1]});
  if (!engine::RangeTable::valid(ranges)) throw Napi::RangeError::New(env, "ranges must be sorted, disjoint and not empty");
  return engine::RangeTable(ranges);
}

engine::Durability durability_from(Napi::Env env, const std::string &name) {
  if (name == "async") return engine::Durability::kAsync;
  if (name == "flush") return engine::Durability::kFlush;
  if (name == "received") return engine::Durability::kReceived;
  if (name == "durable") return engine::Durability::kDurable;
  throw Napi::RangeError::New(env, "durability: " + name);
}

uint64_t ns_of(Napi::Object spec, const char *name, double otherwise_ms) {
  return static_cast<uint64_t>(number(spec, name, otherwise_ms)) * 1'000'000;
}

engine::StandbyPolicy standby_policy(Napi::Object spec) {
  engine::StandbyPolicy policy;
  policy.peer_timeout_ns = ns_of(spec, "peerTimeoutMs", 5000);
  policy.block = text(spec, "onStandbyLoss") == "block";
  policy.block_ns = ns_of(spec, "blockMs", 0);
  policy.lag_bytes_max = static_cast<uint64_t>(number(spec, "maxLagBytes", 0));
  policy.lag_ns_max = ns_of(spec, "maxLagMs", 0);
  policy.lag_detaches = text(spec, "onMaxLag") == "detach";
  return policy;
}

engine::LeaseTerms lease_terms(Napi::Object spec) {
  if (!has(spec, "lease")) return {};
  const Napi::Object lease = spec.Get("lease").As<Napi::Object>();
  return {ns_of(lease, "lengthMs", 0), ns_of(lease, "usableMs", 0), flag(lease, "required"), big(lease, "untilNs")};
}

Napi::Object describe(Napi::Env env, const Device &device) {
  const DeviceTraits &traits = device.traits();
  Napi::Object info = Napi::Object::New(env);
  info.Set("sizeBytes", to_big(env, traits.size_bytes));
  info.Set("blockMin", traits.block_bytes_min);
  info.Set("blockPreferred", traits.block_bytes_preferred);
  info.Set("blockMax", wire::kPayloadBytesMax);
  info.Set("readOnly", traits.read_only);
  info.Set("canZero", traits.can_zero);
  info.Set("isBlockDevice", traits.is_block);
  return info;
}

}  // namespace

Addon::GroupEntry &Addon::group_of(Call call, size_t argument) {
  const auto found = groups_.find(call[argument].As<Napi::Number>().Uint32Value());
  if (found == groups_.end()) throw Napi::Error::New(call.Env(), "no such group");
  return *found->second;
}

std::pair<engine::Group *, engine::Volume *> Addon::volume_of(Call call, size_t argument) {
  const uint32_t handle = call[argument].As<Napi::Number>().Uint32Value();
  for (auto &[id, entry] : groups_)
    if (engine::Volume *volume = entry->group->volume_by_handle(handle)) return {entry->group.get(), volume};
  throw Napi::Error::New(call.Env(), "no such volume");
}

std::unique_ptr<engine::Volume> Addon::make_volume(Napi::Env env, Napi::Object spec, uint16_t index) {
  const Napi::Object source = spec.Get("device").As<Napi::Object>();
  std::unique_ptr<Device> device;
  if (has(source, "view")) {
    const auto found = views_.find(static_cast<uint32_t>(number(source, "view")));
    if (found == views_.end()) throw Napi::Error::New(env, "no such view");
    device = std::move(found->second);
    views_.erase(found);
    if (has(source, "tail")) {
      const auto tail = source.Get("tail").As<Napi::Uint8Array>();
      device = with_tail(std::move(device), {tail.Data(), tail.Data() + tail.ByteLength()});
    }
  } else {
    DeviceOptions options;
    options.read_only = flag(spec, "readOnly");
    options.direct = flag(spec, "direct");
    auto opened = open_device(text(source, "path"), options);
    require_ok(env, opened.status);
    device = std::move(opened.value);
    if (has(source, "replica")) {
      const auto found = replicas_.find(static_cast<uint32_t>(number(source, "replica")));
      if (found == replicas_.end()) throw Napi::Error::New(env, "no such replica");
      device = found->second->replica->over_unapplied(std::move(device), index);
    }
  }
  auto volume = std::make_unique<engine::Volume>(text(spec, "name"), index, std::move(device));
  volume->read_only = flag(spec, "readOnly") || volume->device->traits().read_only;
  volume->excluded = table_from(env, spec.Get("excluded"));
  volume->fixed = has(spec, "fixed") ? table_from(env, spec.Get("fixed")) : volume->excluded;
  volume->read_again = has(spec, "fixed");
  volume->watched = table_from(env, spec.Get("watched"));
  volume->handle = ++last_handle_;
  if (has(spec, "map") && !volume->read_only) open_map(*volume, spec.Get("map").As<Napi::Object>());
  return volume;
}

// A map that is lost or damaged says nothing: everything may differ (G4).
void Addon::open_map(engine::Volume &volume, Napi::Object spec) {
  volume.marks = std::make_unique<engine::Marks>(volume, text(spec, "path"), text(spec, "uuid"));
  volume.served_before = flag(spec, "servedBefore");
  if (has(spec, "handed")) {
    auto map = map_from(static_cast<int>(number(spec, "handed")));
    require_ok(spec.Env(), map.status);
    const Status inherited = volume.marks->inherit(map.value, flag(spec, "trusted"));
    if (!volume.marks->loaded()) require_ok(spec.Env(), inherited);
    if (!inherited.ok()) emit({"log", {{"level", std::string("warn")}, {"message", "volume " + volume.name + ": " + inherited.message}}, ""});
    return;
  }
  if (!flag(spec, "trusted")) return;
  uint64_t damaged = 0;
  const Status loaded = volume.marks->load(&damaged);
  std::string message;
  if (!loaded.ok()) {
    volume.each_replicated(0, volume.size_bytes, [&](uint64_t start, uint64_t end) { volume.dirty.mark(start, end); });
    message = loaded.message + "; all of it will be compared";
  } else if (damaged) {
    message = "dirty map: " + std::to_string(damaged) + " blocks are damaged; what they stood for will be compared";
  } else {
    return;
  }
  emit({"log", {{"level", std::string("warn")}, {"message", "volume " + volume.name + ": " + message}}, ""});
}

Napi::Value Addon::open_log_file(Call call) {
  need_started(call.Env());
  const Napi::Object spec = call[0].As<Napi::Object>();
  auto opened = log::SpillFile::open(text(spec, "path"), static_cast<uint64_t>(number(spec, "bytesMax")));
  require_ok(call.Env(), opened.status);
  log_files_[++last_handle_] = std::move(opened.value);
  return Napi::Number::New(call.Env(), last_handle_);
}

Napi::Value Addon::open_group(Call call) {
  Napi::Env env = call.Env();
  need_started(env);
  const Napi::Object spec = call[0].As<Napi::Object>();
  std::shared_ptr<log::SpillFile> log_file;
  if (has(spec, "logFile")) {
    auto found = log_files_.extract(static_cast<uint32_t>(number(spec, "logFile")));
    if (found.empty()) throw Napi::Error::New(env, "no such log file");
    log_file = std::move(found.mapped());
  }
  const Napi::Array specs = spec.Get("volumes").As<Napi::Array>();
  std::vector<std::unique_ptr<engine::Volume>> volumes;
  for (uint32_t i = 0; i < specs.Length(); i++)
    volumes.push_back(make_volume(env, specs.Get(i).As<Napi::Object>(), static_cast<uint16_t>(i)));
  if (volumes.empty()) throw Napi::RangeError::New(env, "a group has at least one volume");
  engine::GroupOptions options;
  options.name = text(spec, "name");
  options.capture = {big(spec, "incarnation"), static_cast<size_t>(number(spec, "logBytes")), flag(spec, "replicated"),
                     std::move(log_file)};
  options.durability = durability_from(env, text(spec, "durability", "flush"));
  options.standby = standby_policy(spec);
  options.resync_bytes_per_second = static_cast<uint64_t>(number(spec, "resyncBytesPerSecond", 0));
  options.lease = lease_terms(spec);
  options.holds_writes = flag(spec, "holdsWrites");
  for (const auto &volume : volumes) volume->replicated = options.capture.replicated;
  const uint32_t handle = ++last_handle_;

  auto entry = std::make_unique<GroupEntry>();
  if (options.capture.replicated) {
    entry->link = std::make_unique<link::GroupLink>();
  }
  entry->group = std::make_unique<engine::Group>(options, std::move(volumes), *pool_, entry->link.get(),
                                                 [this, handle](Event event) {
                                                   event.fields.emplace_back("group", static_cast<double>(handle));
                                                   emit(std::move(event));
                                                 });
  if (entry->link) entry->link->bind(*entry->group);

  Napi::Object result = Napi::Object::New(env);
  Napi::Array opened = Napi::Array::New(env);
  for (const auto &volume : entry->group->volumes()) {
    Napi::Object one = Napi::Object::New(env);
    one.Set("volume", volume->handle);
    one.Set("device", describe(env, *volume->device));
    one.Set("counterPage", volume->page.number());
    if (volume->marks && volume->marks->loaded()) {
      Napi::Object floor = Napi::Object::New(env);
      floor.Set("incarnation", to_big(env, volume->marks->floor().incarnation));
      floor.Set("durable", to_big(env, volume->marks->floor().durable));
      one.Set("mapFloor", floor);
    }
    one.Set("mapStored", volume->marks && volume->marks->stored());
    opened.Set(opened.Length(), one);
  }
  result.Set("group", handle);
  result.Set("volumes", opened);
  result.Set("counterPage", entry->group->page().number());
  groups_.emplace(handle, std::move(entry));
  return result;
}

Napi::Value Addon::close_group(Call call) {
  const Promise promise(call.Env(), queue_);
  const auto found = groups_.find(call[0].As<Napi::Number>().Uint32Value());
  if (found == groups_.end()) {
    promise.resolve();
    return promise.promise();
  }
  auto entry = std::make_shared<std::unique_ptr<GroupEntry>>(std::move(found->second));
  groups_.erase(found);
  closing_->submit([entry, promise] {
    (*entry)->group->stop();
    const auto log = (*entry)->group->capture().log();  // giving back its memory takes a while: nobody waits for that
    entry->reset();
    promise.resolve();
  });
  return promise.promise();
}

Napi::Value Addon::quiesce(Call call) {
  engine::Group *group = group_of(call).group.get();
  const Promise promise(call.Env(), queue_);
  group->post([group, promise] { group->quiesce([promise] { promise.resolve(); }); });
  return promise.promise();
}

Napi::Value Addon::let_write(Call call) {
  engine::Group *group = group_of(call).group.get();
  group->post([group] { group->let_write(); });
  return call.Env().Undefined();
}

Napi::Value Addon::lease(Call call) {
  const engine::Lease &lease = group_of(call).group->lease();
  Napi::Object result = Napi::Object::New(call.Env());
  result.Set("untilNs", to_big(call.Env(), lease.until_ns()));
  result.Set("leftMs", static_cast<double>(lease.left_ns(boot_ns())) / 1e6);
  return result;
}

Napi::Value Addon::start_lease(Call call) {
  engine::Group *group = group_of(call).group.get();
  group->lease().start(boot_ns());
  group->post([] {});
  return call.Env().Undefined();
}

Napi::Value Addon::waive_lease(Call call) {
  engine::Group *group = group_of(call).group.get();
  group->lease().waive();
  group->post([] {});
  return call.Env().Undefined();
}

Napi::Value Addon::watch_ranges(Call call) {
  auto [group, volume] = volume_of(call);
  auto watched = table_from(call.Env(), call[1]);
  const Promise promise(call.Env(), queue_);
  group->post([group = group, volume = volume, watched = std::move(watched), promise] {
    promise.resolve([mark = group->watch(*volume, watched)](Napi::Env env) -> Napi::Value { return Napi::Number::New(env, static_cast<double>(mark)); });
  });
  return promise.promise();
}

Napi::Value Addon::set_ranges(Call call) {
  auto [group, volume] = volume_of(call);
  auto fixed = table_from(call.Env(), call[1]), watched = table_from(call.Env(), call[2]);
  const auto mark = static_cast<uint64_t>(call[3].ToNumber().Int64Value());
  const auto followed = std::make_shared<std::vector<engine::FollowedFileSystem>>(take_watches(call[4].ToNumber().Uint32Value()));
  for (engine::FollowedFileSystem &one : *followed) one.rules.count_in(volume->saved);
  const Promise promise(call.Env(), queue_);
  group->post([group = group, volume = volume, fixed = std::move(fixed), watched = std::move(watched), mark, followed, promise] {
    promise.resolve([installed = group->set_ranges(*volume, fixed, watched, mark, std::move(*followed))](Napi::Env env) -> Napi::Value {
      Napi::Object object = Napi::Object::New(env);
      object.Set("refused", installed.refused);
      object.Set("why", installed.why);
      return object;
    });
  });
  return promise.promise();
}

Napi::Value Addon::left_out(Call call) {
  auto [group, volume] = volume_of(call);
  const Promise promise(call.Env(), queue_);
  group->post([volume = volume, promise] {
    const auto table = std::make_shared<engine::RangeTable>(volume->left_out(0, volume->size_bytes));
    promise.resolve([table](Napi::Env env) -> Napi::Value { return array_from(env, *table); });
  });
  return promise.promise();
}

Napi::Value Addon::saved_by_rule(Call call) {
  const uint32_t handle = call[0].As<Napi::Number>().Uint32Value();
  Napi::Object result = Napi::Object::New(call.Env());
  for (auto &[id, entry] : groups_)
    if (const engine::Volume *volume = entry->group->volume_by_handle(handle))
      volume->saved.each([&](const std::string &rule, uint64_t bytes) { result.Set(rule, static_cast<double>(bytes)); });
  return result;
}

Napi::Value Addon::attach(Call call) {
  GroupEntry &entry = group_of(call);
  if (!entry.link) throw Napi::Error::New(call.Env(), "the group is not replicated");
  const Napi::Object spec = call[1].As<Napi::Object>();
  engine::AttachRequest request;
  request.session = big(spec, "session");
  request.peer = {big(spec, "peerIncarnation"), big(spec, "peerReceived")};
  request.fresh = flag(spec, "fresh");
  request.initial = flag(spec, "initial");
  request.all_dirty = flag(spec, "allDirty");
  request.give_back = flag(spec, "giveBack");
  link::Link *link = link_of_session(request.session);
  if (!link) return call.Env().Undefined();  // it has ended: session-closed is on its way
  entry.link->use(*link, link::compression_named(text(spec, "compress")));
  engine::Group *group = entry.group.get();
  group->post([group, request] { group->attach(request); });
  return call.Env().Undefined();
}

Napi::Value Addon::part(Call call) {
  engine::Group *group = group_of(call).group.get();
  group->post([group] { group->part(); });
  return call.Env().Undefined();
}

Napi::Value Addon::detach(Call call) {
  engine::Group *group = group_of(call).group.get();
  group->post([group] { group->detach("requested"); });
  return call.Env().Undefined();
}

Napi::Value Addon::fill_map(Call call) {
  engine::Group *group = group_of(call).group.get();
  const Promise promise(call.Env(), queue_);
  group->post([group, promise] {
    group->fill_marks([promise](const Status &status) { status.ok() ? promise.resolve() : promise.reject(status); });
  });
  return promise.promise();
}

Napi::Value Addon::finish_map(Call call) {
  auto [group, volume] = volume_of(call);
  const Promise promise(call.Env(), queue_);
  group->post([group = group, volume = volume, promise] {
    group->finish_marks(*volume, [group, promise](const Status &status) {
      if (!status.ok()) return promise.reject(status);
      promise.resolve([sequence = group->capture().last_sequence()](Napi::Env env) -> Napi::Value {
        Napi::Object result = Napi::Object::New(env);
        result.Set("sequence", to_big(env, sequence));
        return result;
      });
    });
  });
  return promise.promise();
}

Napi::Value Addon::read_map(Call call) {
  need_started(call.Env());
  const Napi::Object spec = call[0].As<Napi::Object>();
  const log::MarkFile::Owner owner{text(spec, "uuid"), big(spec, "sizeBytes")};
  const std::string path = text(spec, "path");
  const auto runs_max = static_cast<size_t>(number(spec, "runsMax"));
  const Promise promise(call.Env(), queue_);
  pool_->submit([path, owner, runs_max, promise] {
    log::DirtyMap map(owner.size_bytes);
    auto opened = log::MarkFile::open(path, owner, map);
    if (!opened.ok()) return promise.reject(opened.status);
    promise.resolve([runs = map.runs(runs_max)](Napi::Env env) -> Napi::Value {
      Napi::BigUint64Array array = Napi::BigUint64Array::New(env, runs.size() * 2);
      for (size_t i = 0; i < runs.size(); i++) array[2 * i] = runs[i].start, array[2 * i + 1] = runs[i].end;
      return array;
    });
  });
  return promise.promise();
}

Napi::Value Addon::mark_ranges(Call call) {
  auto [group, volume] = volume_of(call);
  auto ranges = table_from(call.Env(), call[1]);
  if (ranges.touches(volume->size_bytes, UINT64_MAX)) throw Napi::RangeError::New(call.Env(), "ranges must lie in the volume");
  group->post([group = group, volume = volume, ranges = std::move(ranges)] { group->suspect(*volume, ranges); });
  return call.Env().Undefined();
}

Napi::Value Addon::verify(Call call) {
  auto [group, volume] = volume_of(call);
  engine::VerifyOptions options;
  if (call[1].IsObject()) {
    const Napi::Object given = call[1].As<Napi::Object>();
    options = {flag(given, "repair"), static_cast<uint64_t>(number(given, "bytesPerSecond", 0))};
  }
  const Promise promise(call.Env(), queue_);
  group->post([group = group, volume = volume, options, promise] {
    const Status started = group->verifier().start(
        *volume, options, [promise](const Status &status, const engine::VerifyOutcome &outcome) {
          if (!status.ok()) return promise.reject(status);
          promise.resolve([outcome](Napi::Env env) -> Napi::Value {
            Napi::Object result = Napi::Object::New(env);
            result.Set("chunks", static_cast<double>(outcome.chunks));
            result.Set("different", static_cast<double>(outcome.different));
            result.Set("repaired", static_cast<double>(outcome.repaired));
            result.Set("unreadableBytes", static_cast<double>(outcome.unreadable_bytes));
            return result;
          });
        });
    if (!started.ok()) promise.reject(started);
  });
  return promise.promise();
}

Napi::Value Addon::partitions(Call call) {
  need_started(call.Env());
  const std::string path = call[0].ToString().Utf8Value();
  const Promise promise(call.Env(), queue_);
  pool_->submit([path, promise] {
    auto read = partition::read_partitions(path);
    if (!read.ok()) return promise.reject(read.status);
    promise.resolve([found = std::move(read.value)](Napi::Env env) -> Napi::Value {
      Napi::Array array = Napi::Array::New(env);
      for (const partition::Partition &one : found) {
        Napi::Object object = Napi::Object::New(env);
        object.Set("number", one.number);
        object.Set("offset", to_big(env, one.offset));
        object.Set("sizeBytes", to_big(env, one.size_bytes));
        object.Set("type", one.type);
        object.Set("name", one.name);
        object.Set("uuid", one.uuid);
        object.Set("scheme", one.scheme);
        object.Set("extended", one.extended);
        array.Set(array.Length(), object);
      }
      return array;
    });
  });
  return promise.promise();
}

}  // namespace understudy::binding
