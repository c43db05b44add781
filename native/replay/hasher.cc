#include "replay/hasher.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/clock.h"
#include "core/thread.h"

namespace understudy::replay {
namespace {
constexpr uint64_t kWaitNs = 20'000'000'000;  // for the applier to reach the kBegin that a question names
}

void Hasher::start() {
  zeroes_ = digest_of_zeroes(wire::kRegionBytes);
  thread_ = start_thread("us-hasher", [this] { run(); });
}

void Hasher::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_.store(true);
  }
  asked_.notify_all();
  applier_.gate()->wake_waiters();
  if (thread_.joinable()) thread_.join();
}

Status Hasher::ask(const wire::HashRequestBody &request, Want want) {
  const std::string what = "hash: volume " + std::to_string(request.volume_index) + ", " +
                           std::to_string(request.count) + " regions at " + std::to_string(request.offset);
  if (request.volume_index >= images_.size() || request.count == 0 || request.count > wire::kHashRegionsMax ||
      request.offset % wire::kRegionBytes != 0)
    return Status::failed(EINVAL, what);
  const uint64_t size = images_[request.volume_index]->device().traits().size_bytes;
  if (request.offset >= size || (request.count - 1) * uint64_t{wire::kRegionBytes} >= size - request.offset)
    return Status::failed(EINVAL, what + ": beyond the volume's " + std::to_string(size) + " bytes");
  {
    std::lock_guard lock(mutex_);
    if (queue_.size() >= kQueueMax)
      return Status::failed(EAGAIN, what + ": " + std::to_string(kQueueMax) + " questions are waiting");
    queue_.push_back({request, want, monotonic_ns() + kWaitNs});
  }
  asked_.notify_one();
  return Status::good();
}

void Hasher::forget() {
  std::lock_guard lock(mutex_);
  queue_.clear();
}

void Hasher::run() {
  for (;;) {
    std::unique_lock lock(mutex_);
    asked_.wait(lock, [&] { return stopping_.load() || !queue_.empty(); });
    if (stopping_.load()) return;
    const Question question = queue_.front();
    queue_.pop_front();
    lock.unlock();
    question.want == Want::kData ? tell(question) : answer(question);
  }
}

// May the image be asked on behalf of this kBegin? Only when everything before it is applied: what came in between and
// is staged is in the staged map, and no live record in flight touches a region that is asked about.
Hasher::Stand Hasher::stand(const wire::HashRequestBody &request) const {
  const uint64_t begin_sequence = request.begin_sequence;
  const Ledger::LastBegin last = ledger_.last_begin();
  // The last kBegin of the master's life before may have the same number.
  if (request.incarnation16 && request.incarnation16 != static_cast<uint16_t>(last.position.incarnation)) return Stand::kWait;
  if (last.position.incarnation != state_.incarnation.load() || last.position.sequence < begin_sequence)
    return Stand::kWait;
  if (last.position.sequence > begin_sequence) return Stand::kNever;
  if (applier_.is_redoing()) return Stand::kWait;
  if (applier_.phase() == ReplicaPhase::kStaging)
    return applier_.log_offset() >= last.staged_offset ? Stand::kStaged : Stand::kWait;
  if (applier_.log_offset() <= last.offset) return Stand::kWait;
  return applier_.phase() == ReplicaPhase::kInitial ? Stand::kDirect : Stand::kNever;
}

Hasher::Stand Hasher::wait_until_ready(const Question &question) {
  Stand found = Stand::kWait;
  applier_.gate()->wait(question.deadline_ns, [&] {
    found = stand(question.request);
    return found != Stand::kWait || stopping_.load();
  });
  return found;
}

void Hasher::answer(const Question &question) {
  const wire::HashRequestBody &request = question.request;
  wire::HashEntry unknown{};
  unknown.flags = wire::kHashUnknown;
  std::vector<wire::HashEntry> entries(request.count, unknown);
  const Stand found = wait_until_ready(question);
  if (found == Stand::kStaged || found == Stand::kDirect) {
    for (uint32_t i = 0; i < request.count && !stopping_.load(); i++)
      entries[i] = hash_region(request, request.offset / wire::kRegionBytes + i, found == Stand::kStaged);
    // A step that began to be applied meanwhile has changed regions under our hands.
    if (wait_until_ready(question) != found) std::fill(entries.begin(), entries.end(), unknown);
  }
  if (!stopping_.load()) listener_.hashed(request, std::move(entries));
}

// The cut, whatever is staged above it. Piece by piece; what cannot be told ends the answer with an error.
void Hasher::tell(const Question &question) {
  const wire::HashRequestBody &request = question.request;
  Device &device = images_[request.volume_index]->device();
  const uint64_t end = std::min(request.offset + request.count * uint64_t{wire::kRegionBytes}, device.traits().size_bytes);
  const bool ready = wait_until_ready(question) == Stand::kStaged;
  for (uint64_t at = request.offset; at < end && !stopping_.load();) {
    std::vector<uint8_t> bytes(std::min<uint64_t>(wire::kDataPieceBytes, end - at));
    wire::DataReplyBody reply{};
    reply.begin_sequence = request.begin_sequence;
    reply.offset = at;
    reply.volume_index = request.volume_index;
    reply.bytes = static_cast<uint32_t>(bytes.size());
    if (!ready) reply.error = EAGAIN;
    else if (const int error = device.read(bytes.data(), bytes.size(), at)) reply.error = static_cast<uint32_t>(error);
    else if (wait_until_ready(question) != Stand::kStaged) reply.error = EAGAIN;  // the step was applied meanwhile
    if (reply.error) {
      reply.bytes = static_cast<uint32_t>(end - at);
      bytes.clear();
    }
    at += reply.bytes;
    listener_.told(reply, bytes);
  }
}

wire::HashEntry Hasher::hash_region(const wire::HashRequestBody &request, uint64_t region, bool is_staged) {
  wire::HashEntry entry{};
  entry.flags = wire::kHashUnknown;
  Device &device = images_[request.volume_index]->device();
  const uint64_t offset = region * wire::kRegionBytes;
  const uint64_t bytes = std::min<uint64_t>(wire::kRegionBytes, device.traits().size_bytes - offset);
  Digest digest = zeroes_;
  const bool known_zeroes = bytes == wire::kRegionBytes && device.hole_bytes(offset, bytes) == bytes;
  if (!known_zeroes && digest_range(device, offset, bytes, false, &digest) != 0) return entry;
  // Asked after reading, so that a record that came in between is not missed.
  if (is_staged && ledger_.staged(request.volume_index, region)) return entry;
  memcpy(entry.hash, digest.data(), digest.size());
  entry.flags = 0;
  return entry;
}

}  // namespace understudy::replay
