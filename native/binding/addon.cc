#include "binding/addon.h"

#include <unistd.h>

#include <cstdio>

#include "quic/endpoint.h"

namespace understudy::binding {
namespace {
constexpr size_t kWorkers = 8;
Addon *the_addon = nullptr;  // for atexit, which takes no argument

template <auto Method>
void add(Napi::Object exports, const char *name) {
  exports.Set(name, Napi::Function::New(
                        exports.Env(), [](const Napi::CallbackInfo &call) { return (the_addon->*Method)(call); }, name));
}
}  // namespace

void Addon::define(Napi::Env env, Napi::Object exports) {
  if (!the_addon) {
    the_addon = new Addon;  // never deleted: threads are joined by stop()
    // Exiting while a thread is inside GnuTLS aborts, and Node runs no clean-up hooks on process.exit.
    atexit([] { the_addon->stop(); });
  }
  env.AddCleanupHook([] { the_addon->stop(); });
  add<&Addon::start>(exports, "start");
  add<&Addon::stop_call>(exports, "stop");
  add<&Addon::exit>(exports, "exit");
  add<&Addon::counters>(exports, "counters");
  add<&Addon::counter_layout>(exports, "counterLayout");
  add<&Addon::create_identity>(exports, "createIdentity");
  add<&Addon::create_successor>(exports, "createSuccessor");
  add<&Addon::identity_fingerprint>(exports, "identityFingerprint");
  add<&Addon::identity_certificate>(exports, "identityCertificate");
  add<&Addon::listen>(exports, "listen");
  add<&Addon::close_listener>(exports, "closeListener");
  add<&Addon::adopt>(exports, "adopt");
  add<&Addon::release>(exports, "release");
  add<&Addon::pause_listeners>(exports, "pauseListeners");
  add<&Addon::waiting_connections>(exports, "waitingConnections");
  add<&Addon::take_listener>(exports, "takeListener");
  add<&Addon::listening_socket>(exports, "listeningSocket");
  add<&Addon::duplicate>(exports, "duplicate");
  add<&Addon::pause_clients>(exports, "pauseClients");
  add<&Addon::resume_clients>(exports, "resumeClients");
  add<&Addon::take_clients>(exports, "takeClients");
  add<&Addon::adopt_client>(exports, "adoptClient");
  add<&Addon::channel_connect>(exports, "channelConnect");
  add<&Addon::channel_accept>(exports, "channelAccept");
  add<&Addon::channel_send>(exports, "channelSend");
  add<&Addon::channel_receive>(exports, "channelReceive");
  add<&Addon::channel_peer>(exports, "channelPeer");
  add<&Addon::channel_close>(exports, "channelClose");
  add<&Addon::tls_credentials>(exports, "tlsCredentials");
  add<&Addon::drop_tls_credentials>(exports, "dropTlsCredentials");
  add<&Addon::start_tls>(exports, "startTls");
  add<&Addon::guard_memory>(exports, "guardMemory");
  add<&Addon::attach_device>(exports, "attachDevice");
  add<&Addon::detach_device>(exports, "detachDevice");
  add<&Addon::open_group>(exports, "openGroup");
  add<&Addon::close_group>(exports, "closeGroup");
  add<&Addon::quiesce>(exports, "quiesce");
  add<&Addon::let_write>(exports, "letWrite");
  add<&Addon::lease>(exports, "lease");
  add<&Addon::start_lease>(exports, "startLease");
  add<&Addon::waive_lease>(exports, "waiveLease");
  add<&Addon::watch_ranges>(exports, "watchRanges");
  add<&Addon::set_ranges>(exports, "setRanges");
  add<&Addon::left_out>(exports, "leftOut");
  add<&Addon::saved_by_rule>(exports, "savedByRule");
  add<&Addon::attach>(exports, "attach");
  add<&Addon::part>(exports, "part");
  add<&Addon::detach>(exports, "detach");
  add<&Addon::fill_map>(exports, "fillMap");
  add<&Addon::finish_map>(exports, "finishMap");
  add<&Addon::hand_over_map>(exports, "handOverMap");
  add<&Addon::read_map>(exports, "readMap");
  add<&Addon::mark_ranges>(exports, "markRanges");
  add<&Addon::verify>(exports, "verify");
  add<&Addon::partitions>(exports, "partitions");
  add<&Addon::find_filesystems>(exports, "findFilesystems");
  add<&Addon::read_filesystems>(exports, "readFilesystems");
  add<&Addon::forget_reading>(exports, "forgetReading");
  add<&Addon::make_watches>(exports, "makeWatches");
  add<&Addon::forget_watches>(exports, "forgetWatches");
  add<&Addon::open_endpoint>(exports, "openEndpoint");
  add<&Addon::close_endpoint>(exports, "closeEndpoint");
  add<&Addon::allow>(exports, "allow");
  add<&Addon::set_identity>(exports, "setIdentity");
  add<&Addon::connect>(exports, "connect");
  add<&Addon::close_session>(exports, "closeSession");
  add<&Addon::send>(exports, "send");
  add<&Addon::open_replica>(exports, "openReplica");
  add<&Addon::close_replica>(exports, "closeReplica");
  add<&Addon::attach_replica>(exports, "attachReplica");
  add<&Addon::lease_age_ms>(exports, "leaseAgeMs");
  add<&Addon::drain_replica>(exports, "drainReplica");
  add<&Addon::seal_replica>(exports, "sealReplica");
  add<&Addon::catch_up_replica>(exports, "catchUpReplica");
  add<&Addon::replica_view_at>(exports, "replicaViewAt");
  add<&Addon::clone_image>(exports, "cloneImage");
  add<&Addon::find_moment>(exports, "findMoment");
  add<&Addon::stand_aside>(exports, "standAside");
  add<&Addon::hold_history>(exports, "holdHistory");
  add<&Addon::roll_back_replica>(exports, "rollBackReplica");
  add<&Addon::replica_history>(exports, "replicaHistory");
  add<&Addon::replica_moments>(exports, "replicaMoments");
  add<&Addon::set_staging_max>(exports, "setStagingMax");
  add<&Addon::give_up_cut>(exports, "giveUpCut");
  add<&Addon::open_log_file>(exports, "openLogFile");
  add<&Addon::open_pages>(exports, "openPages");
  add<&Addon::survey_pages>(exports, "surveyPages");
  add<&Addon::lock_pages>(exports, "lockPages");
  add<&Addon::drop_pages>(exports, "dropPages");
  add<&Addon::close_pages>(exports, "closePages");
}

void Addon::need_started(Napi::Env env) const {
  if (!pool_) throw Napi::Error::New(env, "the addon is not started");
}

Napi::Value Addon::start(Call call) {
  on_event_ = std::make_shared<Napi::FunctionReference>(Napi::Persistent(call[0].As<Napi::Function>()));
  if (pool_) return call.Env().Undefined();
  leaving_ = false;
  queue_.open(call.Env());
  pool_ = std::make_unique<WorkPool>(kWorkers);
  closing_ = std::make_unique<WorkPool>(2);
  pumps_ = std::make_unique<tls::Pumps>();
  acceptor_ = std::make_unique<engine::Acceptor>(
      [this](uint32_t listener, uint32_t connection, int duplicate, std::string peer) {
        emit({"accepted",
              {{"listener", static_cast<double>(listener)},
               {"connection", static_cast<double>(connection)},
               {"fd", static_cast<double>(duplicate)},
               {"peer", std::move(peer)}},
              ""});
      });
  return call.Env().Undefined();
}

void Addon::emit(Event event) {
  queue_.post([this, event = std::move(event)](Napi::Env env) {
    if (event.type == "session-established")
      for (const auto &[key, value] : event.fields)
        if (key == "session")
          session_endpoints_[std::get<uint64_t>(value)] =
              static_cast<uint32_t>(std::get<double>(event.fields[1].second));
    if (event.type == "session-closed") session_endpoints_.erase(std::get<uint64_t>(event.fields[0].second));
    if (on_event_ && !on_event_->IsEmpty()) on_event_->Call({to_object(env, event)});
  });
}

void Addon::stop() {
  if (!pool_) return;
  leaving_ = true;
  for (auto &[handle, channel] : channels_) channel->shut();
  channel_thread_.reset();
  channels_.clear();
  pages_thread_.reset();
  pages_.clear();
  acceptor_.reset();
  groups_.clear();  // engines before what they use
  readings_.clear();
  watches_.clear();
  pumps_.reset();   // what the engines have said last is on its way out
  tls_credentials_.clear();
  closing_.reset();
  replicas_.clear();
  endpoints_.clear();
  views_.clear();
  log_files_.clear();
  pool_.reset();
  queue_.close();
  on_event_.reset();
}

Napi::Value Addon::stop_call(Call call) {
  stop();
  return call.Env().Undefined();
}

Napi::Value Addon::exit(Call call) {
  const int code = call[0].As<Napi::Number>().Int32Value();
  stop();
  fflush(stdout);
  fflush(stderr);
  _exit(code);
}

Napi::Value Addon::counters(Call call) {
  CounterPages &pages = CounterPages::instance();
  return Napi::ArrayBuffer::New(call.Env(), pages.data(), pages.bytes());
}

Napi::Value Addon::counter_layout(Call call) {
  Napi::Env env = call.Env();
  Napi::Object volume = Napi::Object::New(env), group = Napi::Object::New(env), replica = Napi::Object::New(env);
  const auto set = [](Napi::Object &page, const std::string &name, size_t word) {
    page.Set(name, static_cast<double>(word));
  };
  set(volume, "dirty_bytes", kDirtyBytes);
  set(volume, "size_bytes", kSizeBytes);
  set(volume, "connections", kConnections);
  set(volume, "hot_bytes", kHotBytes);
  set(volume, "map_stored", kMapStored);
  set(volume, "left_out_bytes", kLeftOutBytes);
  for (size_t kind = 0; kind < kRequestKinds; kind++) {
    const std::string name = kRequestKindNames[kind];
    const auto word = [kind](size_t offset) { return kind_word(static_cast<RequestKind>(kind), offset); };
    set(volume, "requests_" + name, word(0));
    set(volume, "bytes_" + name, word(1));
    set(volume, "errors_" + name, word(2));
    set(volume, "latency_sum_ns_" + name, word(3));
    for (size_t bucket = 0; bucket < 32; bucket++)
      set(volume, "latency_" + name + "_" + std::to_string(bucket), word(kKindBuckets + bucket));
  }
#define X(name) set(group, #name, kGroup_##name);
  UNDERSTUDY_GROUP_COUNTERS(X)
#undef X
  for (size_t word = 0; word < link::kReplicaCounterNames.size(); word++)
    set(replica, link::kReplicaCounterNames[word], word);
  Napi::Object layout = Napi::Object::New(env);
  layout.Set("volume", volume);
  layout.Set("group", group);
  layout.Set("replica", replica);
  return layout;
}

Napi::Value Addon::create_identity(Call call) {
  auto identity = quic::create_identity();
  require_ok(call.Env(), identity.status);
  return Napi::String::New(call.Env(), identity.value.key_pem);
}

Napi::Value Addon::create_successor(Call call) {
  auto identity = quic::create_successor({call[0].ToString().Utf8Value()});
  require_ok(call.Env(), identity.status);
  return Napi::String::New(call.Env(), identity.value.key_pem);
}

Napi::Value Addon::identity_fingerprint(Call call) {
  auto fingerprint = quic::identity_fingerprint({call[0].ToString().Utf8Value()});
  require_ok(call.Env(), fingerprint.status);
  return Napi::String::New(call.Env(), fingerprint.value);
}

Napi::Value Addon::identity_certificate(Call call) {
  const auto seconds = static_cast<uint64_t>(call[1].ToNumber().Int64Value());
  auto certificate = quic::identity_certificate({call[0].ToString().Utf8Value()}, seconds);
  require_ok(call.Env(), certificate.status);
  return Napi::String::New(call.Env(), certificate.value);
}

static Napi::Object init(Napi::Env env, Napi::Object exports) {
  Addon::define(env, exports);
  return exports;
}
NODE_API_MODULE(understudy, init)

}  // namespace understudy::binding
