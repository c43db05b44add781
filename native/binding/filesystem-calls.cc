// File systems for JavaScript, which decides: what there is; a reading with all files, which stays here; from which files
// are left out, watches that keep their ranges right while clients write (engine/filtering.cc).
#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <optional>

#include "binding/addon.h"
#include "core/fd.h"
#include "filesystem/filesystem.h"
#include "filesystem/watch.h"

namespace understudy::binding {

using filesystem::FileSystem;
using filesystem::Listing;

// Of one device; `listed` are those of `found` that could be read.
struct Addon::Reading {
  std::shared_ptr<Fd> fd;
  std::vector<FileSystem> found;
  std::vector<std::unique_ptr<Listing>> listings;  // as many; null: it could not be read
};

namespace {

// A listing as flat arrays, made on the worker: JavaScript's thread only copies them.
struct Packed {
  std::vector<double> files;    // size, data, unwritten, held, first link, links
  std::vector<uint32_t> links;  // file, directory, name start, name end
  std::vector<uint32_t> directories;  // parent, name start, name end
  std::vector<double> extents;  // offset, bytes, file
};

Packed pack(const Listing &listing) {
  Packed packed;
  for (const auto &file : listing.files)
    for (const uint64_t value : {file.size_bytes, file.data_bytes, file.unwritten_bytes, uint64_t{file.held}, uint64_t{file.first_link}, uint64_t{file.link_count}})
      packed.files.push_back(static_cast<double>(value));
  for (const auto &link : listing.links) packed.links.insert(packed.links.end(), {link.file, link.directory, link.name_start, link.name_end});
  for (const auto &one : listing.directories) packed.directories.insert(packed.directories.end(), {one.parent, one.name_start, one.name_end});
  for (const auto &extent : listing.extents)
    packed.extents.insert(packed.extents.end(), {static_cast<double>(extent.offset), static_cast<double>(extent.bytes), static_cast<double>(extent.file)});
  return packed;
}

// Through the page cache: what clients wrote.
Result<std::shared_ptr<Fd>> open_device(const std::string &path) {
  auto fd = std::make_shared<Fd>(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!*fd) return Status::failed(errno, "read file systems: open " + path);
  return fd;
}

Result<std::vector<FileSystem>> find_all(const Fd &fd, const std::string &path) {
  auto found = filesystem::find_filesystems(fd.get());
  if (!found.ok()) found.status.message += ", on " + path;
  return found;
}

engine::RangeTable place_of(const filesystem::Space &space) {
  engine::RangeTable place;
  space.map(0, space.size_bytes(), [&](uint64_t offset, uint64_t bytes) { place.add(offset, offset + bytes); });
  return place;
}

// At most `ranges_max` ranges, which hold all of the table: the smallest gaps are filled.
engine::RangeTable coarse(const engine::RangeTable &table, size_t ranges_max) {
  std::vector<engine::Range> gaps;
  uint64_t last = 0;
  table.each([&](uint64_t start, uint64_t end) { gaps.push_back({std::exchange(last, end), start}); });
  engine::RangeTable result = table;
  if (gaps.size() <= ranges_max) return result;
  const auto wider = [](const engine::Range &a, const engine::Range &b) { return a.end - a.start > b.end - b.start; };
  gaps.erase(gaps.begin());
  std::nth_element(gaps.begin(), gaps.begin() + static_cast<ptrdiff_t>(ranges_max - 1), gaps.end(), wider);
  for (auto gap = gaps.begin() + static_cast<ptrdiff_t>(ranges_max - 1); gap != gaps.end(); ++gap) result.add(gap->start, gap->end);
  return result;
}

template <typename Array, typename Value>
Array copied(Napi::Env env, const std::vector<Value> &values) {
  Array array = Array::New(env, values.size());
  if (!values.empty()) memcpy(array.Data(), values.data(), values.size() * sizeof(Value));
  return array;
}

Napi::Object listing_of(Napi::Env env, const Packed &packed, const Listing &listing) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("files", copied<Napi::Float64Array>(env, packed.files));
  object.Set("links", copied<Napi::Uint32Array>(env, packed.links));
  object.Set("directories", copied<Napi::Uint32Array>(env, packed.directories));
  object.Set("extents", copied<Napi::Float64Array>(env, packed.extents));
  object.Set("names", Napi::Buffer<char>::Copy(env, listing.names.data(), listing.names.size()));
  object.Set("namelessFiles", static_cast<double>(listing.nameless_files));
  object.Set("journalPending", listing.journal_pending);
  object.Set("journalUnread", listing.journal_unread);
  object.Set("problems", static_cast<double>(listing.problems));
  object.Set("firstProblem", listing.first_problem);
  return object;
}

Napi::Object to_object(Napi::Env env, const FileSystem &where) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("partition", where.partition);
  object.Set("logicalVolume", where.logical_volume);
  object.Set("kind", where.kind);
  object.Set("label", where.label);
  object.Set("uuid", where.uuid);
  object.Set("sizeBytes", static_cast<double>(where.size_bytes));
  object.Set("blockBytes", static_cast<double>(where.block_bytes));
  object.Set("unread", where.unread);
  std::vector<double> located_by;
  for (const auto &[offset, bytes] : where.located_by) located_by.insert(located_by.end(), {static_cast<double>(offset), static_cast<double>(bytes)});
  object.Set("locatedBy", copied<Napi::Float64Array>(env, located_by));
  return object;
}

}  // namespace

Napi::Value Addon::find_filesystems(Call call) {
  need_started(call.Env());
  const std::string path = call[0].ToString().Utf8Value();
  const Promise promise(call.Env(), queue_);
  pool_->submit([path, promise] {
    const auto fd = open_device(path);
    if (!fd.ok()) return promise.reject(fd.status);
    auto found = find_all(*fd.value, path);
    if (!found.ok()) return promise.reject(found.status);
    promise.resolve([found = std::move(found.value)](Napi::Env env) -> Napi::Value {
      Napi::Array array = Napi::Array::New(env);
      for (const FileSystem &one : found) array.Set(array.Length(), to_object(env, one));
      return array;
    });
  });
  return promise.promise();
}

// A file system that cannot be listed is one that is not read: why is in its place.
Napi::Value Addon::read_filesystems(Call call) {
  need_started(call.Env());
  const std::string path = call[0].ToString().Utf8Value();
  const bool followed = call[1].ToBoolean();
  const Promise promise(call.Env(), queue_);
  filesystem::Limits limits;
  limits.cancelled = &leaving_;
  pool_->submit([this, path, followed, promise, limits] {
    auto fd = open_device(path);
    if (!fd.ok()) return promise.reject(fd.status);
    auto found = find_all(*fd.value, path);
    if (!found.ok()) return promise.reject(found.status);
    const auto reading = std::make_shared<Reading>(Reading{std::move(fd.value), std::move(found.value), {}});
    const auto packed = std::make_shared<std::vector<Packed>>();  // not copied on its way
    for (FileSystem &one : reading->found) {
      reading->listings.emplace_back();
      packed->emplace_back();
      if (followed && one.unread.empty() && !filesystem::can_be_followed(one)) one.unread = one.kind + " cannot be followed while it is in use";
      if (!one.unread.empty()) continue;
      auto listing = filesystem::list_files(one, limits);
      if (listing.status.error == ECANCELED) return promise.reject(listing.status);
      if (listing.ok()) {
        packed->back() = pack(listing.value);
        reading->listings.back() = std::make_unique<Listing>(std::move(listing.value));
      } else {
        one.unread = listing.status.message;
      }
    }
    promise.resolve([this, reading, packed](Napi::Env env) -> Napi::Value {
      Napi::Array contents = Napi::Array::New(env);
      for (size_t i = 0; i < reading->found.size(); i++) {
        Napi::Object object = to_object(env, reading->found[i]);
        if (reading->listings[i]) object.Set("listing", listing_of(env, (*packed)[i], *reading->listings[i]));
        contents.Set(contents.Length(), object);
      }
      readings_[++last_handle_] = reading;
      Napi::Object object = Napi::Object::New(env);
      object.Set("reading", last_handle_);
      object.Set("contents", contents);
      return object;
    });
  });
  return promise.promise();
}

Napi::Value Addon::forget_reading(Call call) {
  readings_.erase(call[0].ToNumber().Uint32Value());
  return call.Env().Undefined();
}

Napi::Value Addon::make_watches(Call call) {
  need_started(call.Env());
  const auto found = readings_.find(call[0].ToNumber().Uint32Value());
  if (found == readings_.end()) throw Napi::Error::New(call.Env(), "no such reading");
  using Bytes = std::vector<std::optional<std::vector<uint8_t>>>;
  const Reading &reading = *found->second;
  const auto bytes_of = [&](const Napi::Value &value, const auto &count) {
    const Napi::Array asked = value.As<Napi::Array>();
    Bytes all(reading.found.size());
    for (uint32_t i = 0; i < asked.Length() && i < all.size(); i++) {
      const Napi::Value one = asked.Get(i);
      if (!one.IsTypedArray() || !reading.listings[i]) continue;
      const auto bytes = one.As<Napi::Uint8Array>();
      if (bytes.ElementLength() != count(*reading.listings[i])) throw Napi::RangeError::New(call.Env(), "one byte for each file, or directory");
      all[i].emplace(bytes.Data(), bytes.Data() + bytes.ElementLength());
    }
    return all;
  };
  Bytes left_out = bytes_of(call[1], [](const Listing &listing) { return listing.files.size(); });
  Bytes whole = bytes_of(call[2], [](const Listing &listing) { return listing.directories.size(); });
  const Napi::Array named = call[3].As<Napi::Array>();
  std::vector<std::string> rules;
  for (uint32_t i = 0; i < named.Length(); i++) rules.push_back(named.Get(i).ToString().Utf8Value());
  const auto ranges_max = static_cast<size_t>(call[4].ToNumber().Int64Value());
  const bool holds = call[5].ToBoolean();
  const Promise promise(call.Env(), queue_);
  filesystem::Limits limits;
  limits.cancelled = &leaving_;
  pool_->submit([this, reading = found->second, left_out = std::move(left_out), whole = std::move(whole), rules = std::move(rules), ranges_max, holds, promise, limits] {
    struct Made {
      std::vector<engine::FollowedFileSystem> followed;
      struct Outcome {
        std::string why;
        uint64_t bytes = 0;
        bool followed = false;
      };
      std::vector<Outcome> outcomes;
      engine::RangeTable all, shown;
    };
    const auto made = std::make_shared<Made>();
    for (size_t i = 0; i < left_out.size(); i++) {
      auto &outcome = made->outcomes.emplace_back();
      if (!left_out[i]) continue;
      auto watch = filesystem::make_watch(reading->found[i], *reading->listings[i], *left_out[i], limits, whole[i].value_or(std::vector<uint8_t>{}));
      if (!watch.ok()) {
        outcome.why = watch.status.message;
        continue;
      }
      outcome.followed = true;
      for (const auto &[offset, bytes] : watch.value->ranges()) {
        made->all.add(offset, offset + bytes);
        outcome.bytes += bytes;
      }
      const Listing &listing = *reading->listings[i];
      engine::RuleRanges by_rule(rules);
      for (const auto &extent : listing.extents) by_rule.add(extent.offset, extent.bytes, left_out[i]->at(extent.file));
      made->followed.push_back({reading->fd, std::move(watch.value), place_of(reading->found[i].space), std::move(by_rule), holds});
    }
    made->shown = coarse(made->all, ranges_max);
    promise.resolve([this, made](Napi::Env env) -> Napi::Value {
      watches_[++last_handle_] = std::make_shared<std::vector<engine::FollowedFileSystem>>(std::move(made->followed));
      Napi::Array outcomes = Napi::Array::New(env);
      for (const auto &one : made->outcomes) {
        Napi::Object object = Napi::Object::New(env);
        object.Set("followed", one.followed);
        object.Set("why", one.why);
        object.Set("bytes", static_cast<double>(one.bytes));
        outcomes.Set(outcomes.Length(), object);
      }
      Napi::Object object = Napi::Object::New(env);
      object.Set("watches", last_handle_);
      object.Set("fileSystems", outcomes);
      object.Set("bytes", static_cast<double>(made->all.bytes()));
      object.Set("rangeCount", static_cast<double>(made->all.size()));
      object.Set("around", array_from(env, made->shown));
      return object;
    });
  });
  return promise.promise();
}

Napi::Value Addon::forget_watches(Call call) {
  watches_.erase(call[0].ToNumber().Uint32Value());
  return call.Env().Undefined();
}

std::vector<engine::FollowedFileSystem> Addon::take_watches(uint32_t handle) {
  const auto found = watches_.find(handle);
  if (found == watches_.end()) return {};
  auto taken = std::move(*found->second);
  watches_.erase(found);
  return taken;
}

}  // namespace understudy::binding
