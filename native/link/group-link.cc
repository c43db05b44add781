#include "link/link.h"

namespace understudy::link {

void GroupLink::unbind() {
  // The session holds a source over the group's log: it must have been told closed() before the group may go.
  for (bool bound = group_ != nullptr; bound;) {
    link_.run_on_link_thread([&] {
      quic::Session *session = link_.endpoint().find(session_);
      if (session) session->close("the group is closing");
      bound = link_.endpoint().find(session_) != nullptr;
      if (!bound) group_ = nullptr;
    });
  }
}

void GroupLink::start_records(uint64_t id, std::shared_ptr<log::ReplicationLog> log, uint64_t position) {
  link_.endpoint().post([this, id, log = std::move(log), position]() mutable {
    if (!group_) return;
    quic::Session *session = link_.endpoint().find(id);
    Link::SessionState *state = session ? Link::state_of(*session) : nullptr;
    if (!state) {  // it was lost before we came round
      group_->post([group = group_, id] { group->session_lost(id); });
      return;
    }
    session_ = id;
    CounterPage page = group_->page();
    page.set(kGroup_session, 1);
    page.add(kGroup_reconnects, 1);
    state->group = this;
    state->source = std::make_unique<LogSource>(std::move(log), position, group_->peer(), page);
    session->attach_records(state->source.get());
  });
}

void GroupLink::request_hashes(uint64_t session, const wire::HashRequestBody &request) {
  link_.send_frame(session, make_frame(wire::FrameType::kHashRequest, &request, sizeof request));
}

}  // namespace understudy::link
