#include "link/link.h"

namespace understudy::link {

void GroupLink::use(Link &link, Compression compression) {
  if (link_ != &link) leave();
  std::lock_guard lock(mutex_);
  link_ = &link;
  compression_ = compression;
}

void GroupLink::leave() {
  if (!link_) return;
  // The session holds a source over the group's log: it must have been told closed() before the group may go.
  for (bool open = true; open;) {
    link_->run_on_link_thread([&] {
      if (quic::Session *session = link_->endpoint().find(session_)) session->close("the group is closing");
      open = link_->endpoint().find(session_) != nullptr;
    });
  }
  std::lock_guard lock(mutex_);
  link_ = nullptr;
}

void GroupLink::start_records(uint64_t id, std::shared_ptr<log::ReplicationLog> log, uint64_t position) {
  std::lock_guard lock(mutex_);
  if (!link_) return group_->post([group = group_, id] { group->session_lost(id); });
  link_->endpoint().post([this, link = link_, id, log = std::move(log), position, compression = compression_]() mutable {
    quic::Session *session = link->endpoint().find(id);
    Link::SessionState *state = session ? Link::state_of(*session) : nullptr;
    if (!state || state->source) {  // it was lost before we came round
      group_->post([group = group_, id] { group->session_lost(id); });
      return;
    }
    CounterPage page = group_->page();
    session_ = id;
    if (std::exchange(had_session_, true)) page.add(kGroup_reconnects, 1);
    page.set(kGroup_session, 1);
    state->group = this;
    state->source = std::make_unique<LogSource>(std::move(log), position, group_->peer(), page);
    if (auto codec = Codec::make(compression)) {
      state->batch_source = std::make_unique<BatchSource>(*state->source, std::move(codec), page);
      session->attach_records(state->batch_source.get());
    } else {
      session->attach_records(state->source.get());
    }
    link->ask_for_lease(*session, *state);
    if (!state->early_marks.empty())
      Link::master_frame(*session, wire::FrameType::kWatermarks, std::exchange(state->early_marks, {}));
  });
}

void GroupLink::published(bool urgent) {
  std::lock_guard lock(mutex_);
  if (!link_) return;
  urgent ? link_->endpoint().turn_now(session_) : link_->endpoint().wake_lazily();
}

void GroupLink::request_hashes(uint64_t session, const wire::HashRequestBody &request) {
  std::lock_guard lock(mutex_);
  if (link_) link_->send_frame(session, make_frame(wire::FrameType::kHashRequest, &request, sizeof request));
}

void GroupLink::request_data(uint64_t session, const wire::HashRequestBody &request) {
  std::lock_guard lock(mutex_);
  if (link_) link_->send_frame(session, make_frame(wire::FrameType::kDataRequest, &request, sizeof request));
}

}  // namespace understudy::link
