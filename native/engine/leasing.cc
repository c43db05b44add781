// What a lease means for clients: without one no request is carried out and no reply leaves. Nothing fails, and no
// session ends but one that its client has closed.
#include "core/clock.h"
#include "engine/group.h"

namespace understudy::engine {

// Asked before requests are carried out, and again before each send: what was computed meanwhile stays until there is a
// lease again, or for ever.
bool Group::may_answer() const { return !lease_.required() || lease_.holds(boot_ns()); }

void Group::watch_lease() {
  const Lease::News news = lease_.look(lease_.required() ? boot_ns() : 0);
  if (news == Lease::News::kNone) return;
  const bool held = news == Lease::News::kHeld;
  if (!held) page_.add(kGroup_lease_stalls, 1);
  if (lease_.length_ns()) events_({"lease", {{"held", held}}, ""});
  if (!held) return;
  for (auto &entry : connections_) {  // nobody was slow but us
    entry.first->last_byte_ns = entry.first->large_since_ns = turn_ns_;
    touch(*entry.first);
  }
}

// Clients that have left while nobody was answered: what they asked for last has not been done, and will not be.
void Group::drop_gone() {
  const std::vector<Connection *> readable = readable_;
  for (Connection *connection : readable) {
    if (!connection->hung_up || connection->outstanding) continue;
    connection->closing = connection->dead = true;
    connection->failure = "the client closed the connection while there was no lease";
    (void)connection->send();  // drops what is owed to it
    settle(*connection);
  }
}

int Group::lease_limit_ms() const {
  if (!lease_.required() || !lease_.held()) return -1;
  return static_cast<int>(std::min<uint64_t>(lease_.left_ns(boot_ns()) / 1'000'000 + 1, 3'600'000));
}

}  // namespace understudy::engine
