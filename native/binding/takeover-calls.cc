// Handing a daemon over to its successor: listeners and clients as descriptors, and the channel that carries them.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>
#include <span>

#include "binding/addon.h"

namespace understudy::binding {
namespace {

using engine::ClientState;

struct TakenClient {
  ClientState state;
  Fd bytes;  // a memfd: what is unread, then what is unsent; not open: there is neither
};

Status write_all(int fd, std::span<const uint8_t> bytes, const char *what) {
  for (size_t at = 0; at < bytes.size();) {
    const ssize_t written = write(fd, &bytes[at], bytes.size() - at);
    if (written < 0 && errno != EINTR) return Status::failed(errno, what);
    if (written > 0) at += static_cast<size_t>(written);
  }
  return Status::good();
}

Result<Fd> bytes_of(const ClientState &state) {
  if (state.unread.empty() && state.unsent.empty()) return Fd();
  Fd fd(memfd_create("understudy-client", MFD_CLOEXEC));
  if (!fd) return Status::failed(errno, "hand-over: a client's bytes");
  for (const auto *bytes : {&state.unread, &state.unsent})
    if (Status written = write_all(fd.get(), *bytes, "hand-over: a client's bytes"); !written.ok()) return written;
  return fd;
}

// A memfd with the dirty map's words that are not zero.
Result<Fd> map_of(const engine::Volume &volume) {
  Fd fd(memfd_create("understudy-map", MFD_CLOEXEC));
  if (!fd) return Status::failed(errno, "hand-over: a dirty map");
  const std::vector<uint64_t> pairs = volume.dirty.sparse();
  const std::span bytes(reinterpret_cast<const uint8_t *>(pairs.data()), pairs.size() * sizeof pairs[0]);
  if (Status written = write_all(fd.get(), bytes, "hand-over: a dirty map"); !written.ok()) return written;
  return fd;
}

std::vector<uint8_t> read_back(Napi::Env env, int fd, size_t bytes, off_t from) {
  std::vector<uint8_t> data(bytes);
  for (size_t at = 0; at < bytes;) {
    const ssize_t got = pread(fd, &data[at], bytes - at, from + static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) require_ok(env, Status::failed(got < 0 ? errno : EIO, "hand-over: a client's bytes"));
    at += static_cast<size_t>(got);
  }
  return data;
}

// One end of a socketpair, whose other end is in this process: a TLS session's inside.
bool ends_in_process(int fd) {
  sockaddr_un address{};
  socklen_t bytes = sizeof address;
  return getsockname(fd, reinterpret_cast<sockaddr *>(&address), &bytes) == 0 && address.sun_family == AF_UNIX &&
         bytes <= sizeof address.sun_family;
}

Napi::Value describe(Napi::Env env, TakenClient &client) {
  ClientState &state = client.state;
  Napi::Object flags = Napi::Object::New(env);
  flags.Set("structuredReplies", state.negotiated.structured_replies);
  flags.Set("extendedHeaders", state.negotiated.extended_headers);
  flags.Set("baseAllocationId", state.negotiated.base_allocation_id);
  flags.Set("replicatedId", state.negotiated.replicated_id);
  flags.Set("dirtyId", state.negotiated.dirty_id);
  flags.Set("readOnly", state.negotiated.read_only);
  Napi::Object one = Napi::Object::New(env);
  one.Set("flags", flags);
  one.Set("endsInProcess", ends_in_process(state.socket.get()));
  one.Set("unreadBytes", static_cast<double>(state.unread.size()));
  one.Set("unsentBytes", static_cast<double>(state.unsent.size()));
  one.Set("skipBytes", static_cast<double>(state.skip_bytes));
  one.Set("closing", state.closing);
  one.Set("connection", static_cast<double>(state.connection));
  one.Set("fd", state.socket.release());
  one.Set("bytesFd", client.bytes.release());
  return one;
}

}  // namespace

Napi::Value Addon::pause_listeners(Call call) {
  need_started(call.Env());
  acceptor_->pause(call[0].ToBoolean().Value());
  return call.Env().Undefined();
}

Napi::Value Addon::waiting_connections(Call call) {
  need_started(call.Env());
  return Napi::Number::New(call.Env(), static_cast<double>(acceptor_->waiting()));
}

Napi::Value Addon::take_listener(Call call) {
  need_started(call.Env());
  return Napi::Number::New(call.Env(), acceptor_->take_listener(call[0].As<Napi::Number>().Uint32Value()).release());
}

Napi::Value Addon::listening_socket(Call call) {
  auto fd = engine::listening_socket(address_from(call[0].As<Napi::Object>()));
  require_ok(call.Env(), fd.status);
  return Napi::Number::New(call.Env(), fd.value.release());
}

Napi::Value Addon::duplicate(Call call) {
  const int fd = fcntl(call[0].As<Napi::Number>().Int32Value(), F_DUPFD_CLOEXEC, 3);
  if (fd < 0) require_ok(call.Env(), Status::failed(errno, "duplicate a descriptor"));
  return Napi::Number::New(call.Env(), fd);
}

Napi::Value Addon::pause_clients(Call call) {
  engine::Group *group = volume_of(call).first;
  const Promise promise(call.Env(), queue_);
  group->post([group, promise] { group->quiesce([promise] { promise.resolve(); }); });
  return promise.promise();
}

Napi::Value Addon::resume_clients(Call call) {
  engine::Group *group = volume_of(call).first;
  group->post([group] { group->resume(); });
  return call.Env().Undefined();
}

Napi::Value Addon::take_clients(Call call) {
  auto [group, volume] = volume_of(call);
  const Promise promise(call.Env(), queue_);
  group->post([this, group = group, volume = volume, promise] {
    auto taken = std::make_shared<std::vector<TakenClient>>();
    for (ClientState &state : group->take_clients(*volume)) taken->push_back({std::move(state), Fd()});
    for (TakenClient &client : *taken) {
      auto bytes = bytes_of(client.state);
      if (bytes.ok()) {
        client.bytes = std::move(bytes.value);
        continue;
      }
      for (TakenClient &one : *taken) group->adopt(acceptor_->number_for_adopted(), std::move(one.state), *volume);
      return promise.reject(bytes.status);
    }
    promise.resolve([taken](Napi::Env env) -> Napi::Value {
      Napi::Array array = Napi::Array::New(env);
      for (TakenClient &client : *taken) array.Set(array.Length(), describe(env, client));
      return array;
    });
  });
  return promise.promise();
}

Napi::Value Addon::adopt_client(Call call) {
  Napi::Env env = call.Env();
  auto [group, volume] = volume_of(call);
  const Napi::Object spec = call[1].As<Napi::Object>();
  auto state = std::make_shared<ClientState>();
  state->negotiated = negotiated_from(spec.Get("flags").As<Napi::Object>());
  state->skip_bytes = static_cast<uint64_t>(number(spec, "skipBytes"));
  state->closing = flag(spec, "closing");
  const Fd bytes(static_cast<int>(number(spec, "bytesFd", -1)));
  state->socket = Fd(static_cast<int>(number(spec, "fd", -1)));
  const auto unread = static_cast<size_t>(number(spec, "unreadBytes"));
  const auto unsent = static_cast<size_t>(number(spec, "unsentBytes"));
  state->unread = read_back(env, bytes.get(), unread, 0);
  state->unsent = read_back(env, bytes.get(), unsent, static_cast<off_t>(unread));
  const uint32_t id = acceptor_->number_for_adopted();
  group->post([group = group, volume = volume, id, state] { group->adopt(id, std::move(*state), *volume); });
  return Napi::Number::New(env, id);
}

Napi::Value Addon::hand_over_map(Call call) {
  auto [group, volume] = volume_of(call);
  const Promise promise(call.Env(), queue_);
  group->post([group = group, volume = volume, promise] {
    group->hand_over_marks(*volume);
    auto made = map_of(*volume);
    if (!made.ok()) return promise.reject(made.status);
    auto fd = std::make_shared<Fd>(std::move(made.value));
    promise.resolve([fd, sequence = group->capture().last_sequence()](Napi::Env env) -> Napi::Value {
      Napi::Object result = Napi::Object::New(env);
      result.Set("sequence", to_big(env, sequence));
      result.Set("fd", fd->release());
      return result;
    });
  });
  return promise.promise();
}

Result<std::vector<uint64_t>> Addon::map_from(int fd) {
  struct stat info{};
  if (fstat(fd, &info) != 0) return Status::failed(errno, "hand-over: a dirty map");
  std::vector<uint64_t> pairs(static_cast<size_t>(info.st_size) / sizeof(uint64_t));
  const size_t bytes = pairs.size() * sizeof pairs[0];
  for (size_t at = 0; at < bytes;) {
    const ssize_t got = pread(fd, reinterpret_cast<uint8_t *>(pairs.data()) + at, bytes - at, static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return Status::failed(got < 0 ? errno : EIO, "hand-over: a dirty map");
    at += static_cast<size_t>(got);
  }
  return pairs;
}

std::shared_ptr<takeover::Channel> Addon::channel_of(Call call) {
  const auto found = channels_.find(call[0].As<Napi::Number>().Uint32Value());
  if (found == channels_.end()) throw Napi::Error::New(call.Env(), "no such channel");
  return found->second;
}

uint32_t Addon::keep_channel(Fd socket) {
  channels_.emplace(++last_handle_, std::make_shared<takeover::Channel>(std::move(socket)));
  return last_handle_;
}

// What waits for the other process waits on a thread of its own.
void Addon::on_channel_thread(std::function<void()> job) {
  if (!channel_thread_) channel_thread_ = std::make_unique<WorkPool>(1);
  channel_thread_->submit(std::move(job));
}

Napi::Value Addon::channel_connect(Call call) {
  need_started(call.Env());
  auto socket = takeover::Channel::connect(call[0].ToString().Utf8Value());
  require_ok(call.Env(), socket.status);
  return Napi::Number::New(call.Env(), keep_channel(std::move(socket.value)));
}

Napi::Value Addon::channel_accept(Call call) {
  need_started(call.Env());
  const int listening = call[0].As<Napi::Number>().Int32Value(), limit_ms = call[1].As<Napi::Number>().Int32Value();
  const Promise promise(call.Env(), queue_);
  on_channel_thread([this, listening, limit_ms, promise] {
    auto accepted = takeover::Channel::accept(listening, limit_ms);
    if (!accepted.ok()) return promise.reject(accepted.status);
    auto socket = std::make_shared<Fd>(std::move(accepted.value));
    promise.resolve([this, socket](Napi::Env env) -> Napi::Value {
      return Napi::Number::New(env, keep_channel(std::move(*socket)));
    });
  });
  return promise.promise();
}

Napi::Value Addon::channel_send(Call call) {
  auto channel = channel_of(call);
  const std::string message = call[1].ToString().Utf8Value();
  const auto list = call[2].As<Napi::Array>();
  std::vector<int> descriptors;
  for (uint32_t i = 0; i < list.Length(); i++) descriptors.push_back(list.Get(i).As<Napi::Number>().Int32Value());
  const int limit_ms = call[3].As<Napi::Number>().Int32Value();
  const Promise promise(call.Env(), queue_);
  on_channel_thread([channel, message, descriptors, limit_ms, promise] {
    const Status sent = channel->send(message, descriptors, limit_ms);
    sent.ok() ? promise.resolve() : promise.reject(sent);
  });
  return promise.promise();
}

Napi::Value Addon::channel_receive(Call call) {
  auto channel = channel_of(call);
  const int limit_ms = call[1].As<Napi::Number>().Int32Value();
  const Promise promise(call.Env(), queue_);
  on_channel_thread([channel, limit_ms, promise] {
    auto received = channel->receive(limit_ms);
    if (!received.ok()) return promise.reject(received.status);
    auto message = std::make_shared<takeover::Message>(std::move(received.value));
    promise.resolve([message](Napi::Env env) -> Napi::Value {
      Napi::Object result = Napi::Object::New(env);
      Napi::Array fds = Napi::Array::New(env);
      for (Fd &fd : message->descriptors) fds.Set(fds.Length(), fd.release());
      result.Set("text", message->text);
      result.Set("fds", fds);
      return result;
    });
  });
  return promise.promise();
}

Napi::Value Addon::channel_peer(Call call) { return Napi::Number::New(call.Env(), channel_of(call)->peer()); }

Napi::Value Addon::channel_close(Call call) {
  const auto found = channels_.find(call[0].As<Napi::Number>().Uint32Value());
  if (found == channels_.end()) return call.Env().Undefined();
  found->second->shut();  // whoever waits for it holds it a moment longer
  channels_.erase(found);
  return call.Env().Undefined();
}

}  // namespace understudy::binding
