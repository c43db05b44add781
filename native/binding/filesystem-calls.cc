#include <fcntl.h>

#include <cerrno>

#include "binding/addon.h"
#include "core/fd.h"
#include "filesystem/filesystem.h"

namespace understudy::binding {
namespace {

using filesystem::FileSystem;
using filesystem::Listing;

// A listing as flat arrays, made on the worker: JavaScript's thread only copies them.
struct Packed {
  FileSystem where;
  std::vector<double> files;    // size, data, unwritten, held, first link, links
  std::vector<uint32_t> links;  // file, directory, name start, name end
  std::vector<uint32_t> directories;  // parent, name start, name end
  std::vector<double> extents;  // offset, bytes, file
  std::vector<double> holds_until;  // offset, bytes
  Listing rest;                 // names, and what is one number
  bool listed = false;
};

std::vector<double> pack(const std::vector<filesystem::Place> &places) {
  std::vector<double> packed;
  for (const auto &[offset, bytes] : places) packed.insert(packed.end(), {static_cast<double>(offset), static_cast<double>(bytes)});
  return packed;
}

Packed pack(FileSystem where, Listing listing) {
  Packed packed;
  packed.where = std::move(where), packed.listed = true;
  for (const auto &file : listing.files)
    for (const uint64_t value : {file.size_bytes, file.data_bytes, file.unwritten_bytes, uint64_t{file.held}, uint64_t{file.first_link}, uint64_t{file.link_count}})
      packed.files.push_back(static_cast<double>(value));
  listing.files = {};
  for (const auto &link : listing.links) packed.links.insert(packed.links.end(), {link.file, link.directory, link.name_start, link.name_end});
  listing.links = {};
  for (const auto &one : listing.directories) packed.directories.insert(packed.directories.end(), {one.parent, one.name_start, one.name_end});
  listing.directories = {};
  for (const auto &extent : listing.extents)
    packed.extents.insert(packed.extents.end(), {static_cast<double>(extent.offset), static_cast<double>(extent.bytes), static_cast<double>(extent.file)});
  listing.extents = {};
  packed.holds_until = pack(listing.holds_until);
  packed.rest = std::move(listing);
  return packed;
}

// A file system that cannot be listed is one that is not read: why is in its place.
Result<std::vector<Packed>> read_all(const std::string &path, bool lasting, const filesystem::Limits &limits) {
  const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return Status::failed(errno, "read file systems: open " + path);
  auto found = filesystem::find_filesystems(fd.get());
  if (!found.ok()) {
    found.status.message += ", on " + path;
    return found.status;
  }
  std::vector<Packed> all;
  for (FileSystem &one : found.value) {
    if (one.unread.empty() && lasting && !filesystem::can_be_lasting(one)) one.unread = "its files come and go, and are not followed yet";
    if (one.unread.empty()) {
      auto listing = filesystem::list_files(one, limits);
      if (listing.status.error == ECANCELED) return listing.status;
      if (listing.ok()) {
        all.push_back(pack(std::move(one), std::move(listing.value)));
        continue;
      }
      one.unread = listing.status.message;
    }
    all.emplace_back().where = std::move(one);
  }
  return all;
}

template <typename Array, typename Value>
Array copied(Napi::Env env, const std::vector<Value> &values) {
  Array array = Array::New(env, values.size());
  if (!values.empty()) memcpy(array.Data(), values.data(), values.size() * sizeof(Value));
  return array;
}

Napi::Object listing_of(Napi::Env env, const Packed &packed) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("files", copied<Napi::Float64Array>(env, packed.files));
  object.Set("links", copied<Napi::Uint32Array>(env, packed.links));
  object.Set("directories", copied<Napi::Uint32Array>(env, packed.directories));
  object.Set("extents", copied<Napi::Float64Array>(env, packed.extents));
  object.Set("names", Napi::Buffer<char>::Copy(env, packed.rest.names.data(), packed.rest.names.size()));
  object.Set("holdsUntil", copied<Napi::Float64Array>(env, packed.holds_until));
  object.Set("namelessFiles", static_cast<double>(packed.rest.nameless_files));
  object.Set("journalPending", packed.rest.journal_pending);
  object.Set("journalUnread", packed.rest.journal_unread);
  object.Set("problems", static_cast<double>(packed.rest.problems));
  object.Set("firstProblem", packed.rest.first_problem);
  return object;
}

Napi::Object to_object(Napi::Env env, const Packed &packed) {
  const FileSystem &where = packed.where;
  Napi::Object object = Napi::Object::New(env);
  object.Set("partition", where.partition);
  object.Set("logicalVolume", where.logical_volume);
  object.Set("kind", where.kind);
  object.Set("label", where.label);
  object.Set("uuid", where.uuid);
  object.Set("sizeBytes", static_cast<double>(where.size_bytes));
  object.Set("blockBytes", static_cast<double>(where.block_bytes));
  object.Set("unread", where.unread);
  object.Set("locatedBy", copied<Napi::Float64Array>(env, pack(where.located_by)));
  if (packed.listed) object.Set("listing", listing_of(env, packed));
  return object;
}

}  // namespace

Napi::Value Addon::filesystems(Call call) {
  need_started(call.Env());
  const std::string path = call[0].ToString().Utf8Value();
  const bool lasting = call[1].ToBoolean();
  const Promise promise(call.Env(), queue_);
  filesystem::Limits limits;
  limits.cancelled = &leaving_;
  pool_->submit([path, lasting, promise, limits] {
    auto read = read_all(path, lasting, limits);
    if (!read.ok()) return promise.reject(read.status);
    const auto all = std::make_shared<std::vector<Packed>>(std::move(read.value));  // not copied on its way
    promise.resolve([all](Napi::Env env) -> Napi::Value {
      Napi::Array array = Napi::Array::New(env);
      for (const Packed &one : *all) array.Set(array.Length(), to_object(env, one));
      return array;
    });
  });
  return promise.promise();
}

}  // namespace understudy::binding
