#include "room.h"

namespace sim {

Room *room = nullptr;

uint32_t Handle::ready() const {
  if (kind == Kind::kEvent) return count ? static_cast<uint32_t>(EPOLLIN) : 0;
  if (kind != Kind::kSocket) return 0;
  uint32_t events = 0;
  if (!arrived.empty() || peer_closed) events |= EPOLLIN;
  if (peer_closed) events |= EPOLLRDHUP | EPOLLHUP;
  const auto other = peer.lock();
  if (!other || other->arrived.size() < kSocketBytes) events |= EPOLLOUT;
  return events;
}

void Handle::changed(uint32_t events) {
  watchers.wake_all();
  for (auto &weak : epolls) {
    const auto epoll = weak.lock();
    if (!epoll) continue;
    for (auto &[descriptor, watched] : epoll->watched)
      if (watched.handle.lock().get() == this) watched.pending |= events & (watched.events | EPOLLHUP);
    epoll->watchers.wake_all();
  }
}

int Room::open(std::shared_ptr<Handle> handle) {
  handle->host = scheduler->current->host;
  handles.emplace(next_descriptor, std::move(handle));
  return next_descriptor++;
}

std::shared_ptr<Handle> Room::find(int descriptor) {
  const auto found = handles.find(descriptor);
  return found == handles.end() ? nullptr : found->second;
}

void Room::close(int descriptor) {
  const auto found = handles.find(descriptor);
  if (found == handles.end()) return;
  const auto handle = found->second;
  handles.erase(found);
  if (handle->holds_lock) handle->file->locked = false;
  if (const auto other = handle->peer.lock()) {
    other->peer_closed = true;
    other->changed(EPOLLIN | EPOLLRDHUP | EPOLLHUP);
  }
}

void Room::make_sockets(int host_a, int host_b, int descriptors[2]) {
  auto a = std::make_shared<Handle>(Handle{Handle::Kind::kSocket, host_a});
  auto b = std::make_shared<Handle>(Handle{Handle::Kind::kSocket, host_b});
  a->peer = b;
  b->peer = a;
  descriptors[0] = next_descriptor++;
  descriptors[1] = next_descriptor++;
  handles.emplace(descriptors[0], a);
  handles.emplace(descriptors[1], b);
}

void Room::call(uint64_t what, uint64_t argument, uint64_t ns_max) {
  const int number = scheduler->current->host;
  Host &host = hosts[static_cast<size_t>(number)];
  scheduler->note(what << 8 | static_cast<uint64_t>(number), argument);
  host.calls++;
  if (host.dies_in && --host.dies_in == 0) kill(number, host.death);
  if (ns_max) scheduler->sleep(1 + scheduler->random.below(ns_max));
  else scheduler->yield();
}

int Room::strikes(int number, Place place, Strike strike) {
  Host &host = hosts[static_cast<size_t>(number)];
  DiskFault &fault = host.fault;
  if (!fault.left || fault.place != place || fault.strike != strike) return 0;
  fault.left--;
  host.strikes++;
  scheduler->note(0xfa17, static_cast<uint64_t>(place) << 8 | static_cast<uint64_t>(fault.error));
  return fault.error;
}

void Room::lost(int number, Place place, const std::vector<Change> &changes) {
  const Host &host = hosts[static_cast<size_t>(number)];
  if (place == Place::kDevice && host.device_lost) host.device_lost(changes);
}

void Room::kill(int number, Death death) {
  Host &host = hosts[static_cast<size_t>(number)];
  if (!host.alive) return;
  host.alive = false;
  host.dies_in = 0;
  host.deaths++;
  scheduler->note(0xdead, static_cast<uint64_t>(number) << 1 | static_cast<uint64_t>(death));
  std::vector<int> theirs;
  for (auto &[descriptor, handle] : handles)
    if (handle->host == number) theirs.push_back(descriptor);
  for (int descriptor : theirs) close(descriptor);
  if (death == Death::kPower) {
    host.disk.lose_power(scheduler->random);
    host.boots++;
  }
  if (host.died) host.died();
  scheduler->kill_host(number);
}

}  // namespace sim
