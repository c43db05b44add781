// Addon: what JavaScript sees of native/, and the owner of every native thread. One per process. Handles are small
// numbers, sessions are bigints. Members are used on the JavaScript thread only, unless they say otherwise.
#pragma once
#include <napi.h>

#include <atomic>
#include <map>
#include <memory>

#include "binding/js.h"
#include "core/work-pool.h"
#include "engine/group.h"
#include "engine/listener.h"
#include "link/link.h"
#include "replay/replica.h"
#include "residency/file-pages.h"
#include "takeover/channel.h"
#include "tls/pumps.h"

namespace understudy::binding {

class Addon {
 public:
  static void define(Napi::Env env, Napi::Object exports);
  void stop();  // joins every thread; idempotent

  using Call = const Napi::CallbackInfo &;
  // addon.cc
  Napi::Value start(Call call);
  Napi::Value stop_call(Call call);
  Napi::Value exit(Call call);
  Napi::Value counters(Call call);
  Napi::Value counter_layout(Call call);
  Napi::Value create_identity(Call call);
  Napi::Value create_successor(Call call);
  Napi::Value identity_fingerprint(Call call);
  Napi::Value identity_certificate(Call call);
  // nbd-calls.cc
  Napi::Value listen(Call call);
  Napi::Value close_listener(Call call);
  Napi::Value adopt(Call call);
  Napi::Value release(Call call);
  // takeover-calls.cc
  Napi::Value pause_listeners(Call call);
  Napi::Value waiting_connections(Call call);
  Napi::Value take_listener(Call call);
  Napi::Value listening_socket(Call call);
  Napi::Value duplicate(Call call);
  Napi::Value pause_clients(Call call);
  Napi::Value resume_clients(Call call);
  Napi::Value take_clients(Call call);
  Napi::Value adopt_client(Call call);
  Napi::Value channel_connect(Call call);
  Napi::Value channel_accept(Call call);
  Napi::Value channel_send(Call call);
  Napi::Value channel_receive(Call call);
  Napi::Value channel_peer(Call call);
  Napi::Value channel_close(Call call);
  // tls-calls.cc
  Napi::Value tls_credentials(Call call);
  Napi::Value drop_tls_credentials(Call call);
  Napi::Value start_tls(Call call);
  // attach-calls.cc
  Napi::Value guard_memory(Call call);
  Napi::Value attach_device(Call call);
  Napi::Value detach_device(Call call);
  // group-calls.cc
  Napi::Value open_group(Call call);
  Napi::Value close_group(Call call);
  Napi::Value quiesce(Call call);
  Napi::Value let_write(Call call);
  Napi::Value lease(Call call);
  Napi::Value start_lease(Call call);
  Napi::Value waive_lease(Call call);
  Napi::Value watch_ranges(Call call);
  Napi::Value set_ranges(Call call);
  Napi::Value left_out(Call call);
  Napi::Value saved_by_rule(Call call);
  Napi::Value attach(Call call);
  Napi::Value part(Call call);
  Napi::Value detach(Call call);
  Napi::Value fill_map(Call call);
  Napi::Value finish_map(Call call);
  Napi::Value hand_over_map(Call call);
  Napi::Value read_map(Call call);
  Napi::Value mark_ranges(Call call);
  Napi::Value verify(Call call);
  Napi::Value partitions(Call call);
  // filesystem-calls.cc
  Napi::Value find_filesystems(Call call);
  Napi::Value read_filesystems(Call call);
  Napi::Value forget_reading(Call call);
  Napi::Value make_watches(Call call);
  Napi::Value forget_watches(Call call);
  // link-calls.cc
  Napi::Value open_endpoint(Call call);
  Napi::Value close_endpoint(Call call);
  Napi::Value allow(Call call);
  Napi::Value set_identity(Call call);
  Napi::Value connect(Call call);
  Napi::Value close_session(Call call);
  Napi::Value send(Call call);
  // replica-calls.cc
  Napi::Value open_replica(Call call);
  Napi::Value close_replica(Call call);
  Napi::Value attach_replica(Call call);
  Napi::Value lease_age_ms(Call call);
  Napi::Value drain_replica(Call call);
  Napi::Value seal_replica(Call call);
  Napi::Value catch_up_replica(Call call);
  Napi::Value replica_view_at(Call call);
  Napi::Value clone_image(Call call);
  Napi::Value find_moment(Call call);
  Napi::Value stand_aside(Call call);
  Napi::Value hold_history(Call call);
  Napi::Value roll_back_replica(Call call);
  Napi::Value replica_history(Call call);
  Napi::Value replica_moments(Call call);
  Napi::Value set_staging_max(Call call);
  Napi::Value give_up_cut(Call call);
  Napi::Value open_log_file(Call call);
  // residency-calls.cc
  Napi::Value open_pages(Call call);
  Napi::Value survey_pages(Call call);
  Napi::Value lock_pages(Call call);
  Napi::Value drop_pages(Call call);
  Napi::Value close_pages(Call call);

 private:
  struct Reading;  // filesystem-calls.cc
  struct GroupEntry {
    std::unique_ptr<link::GroupLink> link;  // null: no standby can be attached
    std::unique_ptr<engine::Group> group;   // goes first
    ~GroupEntry() {
      if (link) link->leave();
      group.reset();
    }
  };
  struct ReplicaEntry {
    CounterPage page;
    std::unique_ptr<link::ReplicaLink> link;
    std::unique_ptr<replay::Replica> replica;
    ~ReplicaEntry() {
      link->detach();
      replica.reset();  // its threads may call the link to the very end
      CounterPages::instance().give_back(page);
    }
  };

  EventSink sink() {
    return [this](Event event) { emit(std::move(event)); };
  }
  void emit(Event event);  // any thread
  template <typename Work, typename Convert>
  Napi::Value ask_replica(Call call, Work work, Convert convert);  // replica-calls.cc
  static Result<std::vector<uint64_t>> map_from(int fd);  // takeover-calls.cc
  void open_map(engine::Volume &volume, Napi::Object spec);
  std::unique_ptr<engine::Volume> make_volume(Napi::Env env, Napi::Object spec, uint16_t index);
  std::vector<engine::FollowedFileSystem> take_watches(uint32_t handle);
  GroupEntry &group_of(Call call, size_t argument = 0);
  std::pair<engine::Group *, engine::Volume *> volume_of(Call call, size_t argument = 0);
  link::Link *link_of_session(uint64_t session);
  void need_started(Napi::Env env) const;
  std::shared_ptr<takeover::Channel> channel_of(Call call);
  uint32_t keep_channel(Fd socket);
  void on_channel_thread(std::function<void()> job);
  template <typename Work>
  Napi::Value on_pages_thread(Call call, Work work);  // residency-calls.cc

  JsQueue queue_;
  std::shared_ptr<Napi::FunctionReference> on_event_;
  std::unique_ptr<WorkPool> pool_;      // what may wait for a disk
  std::unique_ptr<WorkPool> closing_;   // what waits for pool_
  std::unique_ptr<engine::Acceptor> acceptor_;
  std::unique_ptr<tls::Pumps> pumps_;  // TLS of NBD clients
  std::map<uint32_t, std::shared_ptr<tls::Credentials>> tls_credentials_;
  std::map<uint32_t, std::unique_ptr<link::Link>> endpoints_;
  std::map<uint64_t, uint32_t> session_endpoints_;  // of sessions we were told of
  std::map<uint32_t, std::unique_ptr<GroupEntry>> groups_;
  std::map<uint32_t, std::shared_ptr<ReplicaEntry>> replicas_;
  std::map<uint32_t, std::unique_ptr<Device>> views_;
  std::map<uint32_t, std::shared_ptr<takeover::Channel>> channels_;
  std::unique_ptr<WorkPool> channel_thread_;  // null: there was no hand-over yet
  std::map<uint32_t, std::shared_ptr<log::SpillFile>> log_files_;  // until the group that is to have it is opened
  std::map<uint32_t, std::shared_ptr<Reading>> readings_;
  std::map<uint32_t, std::shared_ptr<std::vector<engine::FollowedFileSystem>>> watches_;  // until set_ranges() has them
  std::map<uint32_t, std::shared_ptr<residency::FilePages>> pages_;
  std::unique_ptr<WorkPool> pages_thread_;  // null: nothing was ever kept in memory
  uint32_t last_handle_ = 0;
  std::atomic<bool> leaving_ = false;  // read by workers: what takes long ends
};

// group-calls.cc
Napi::BigUint64Array array_from(Napi::Env env, const engine::RangeTable &table);  // [start, end) pairs
// nbd-calls.cc
engine::Negotiated negotiated_from(const Napi::Object &flags);
engine::ListenAddress address_from(const Napi::Object &spec);

}  // namespace understudy::binding
