#include "engine/spilling.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/check.h"

namespace understudy::engine {
namespace {
constexpr uint64_t kJobBytes = 8u << 20;    // of one read or write, at most
constexpr uint64_t kPieceBytes = 1u << 20;  // ... and at least, while there is more
constexpr uint64_t kSyncBytes = 16u << 20;  // written and not synced, at most: the page cache is not ours to fill
constexpr uint64_t kIdleNs = 1'000'000'000;
constexpr uint64_t kRetryNs = 5'000'000'000;
constexpr uint64_t kSilentNs = 30'000'000'000;  // a job that takes longer has failed

bool changes_data(wire::RecordType type) {
  return type == wire::RecordType::kWrite || type == wire::RecordType::kZero || type == wire::RecordType::kTrim ||
         type == wire::RecordType::kSync;
}
}  // namespace

struct Spilling::Read {
  std::shared_ptr<log::ReplicationLog> log;
  uint64_t epoch;
  uint64_t from, bytes;  // log positions
  bool from_file;
  uint64_t head;  // of whole, good records
  wire::Chain chain;
};

Spilling::Spilling(std::shared_ptr<log::SpillFile> file, std::vector<std::unique_ptr<Volume>> &volumes,
                   CounterPage page, size_t buffer_bytes)
    : file_(std::move(file)), volumes_(volumes), page_(page), buffer_bytes_(buffer_bytes) {
  page_.set(kGroup_log_file_bytes_max, file_->bytes_max());
}

void Spilling::bind(Host host) {
  host_ = std::move(host);
  thread_ = std::make_unique<WorkPool>(1);
}

void Spilling::begin(std::shared_ptr<log::ReplicationLog> log) { log_ = std::move(log); }

void Spilling::end() {
  epoch_++;
  log_.reset();
  spilled_bytes_ = 0;
  drained();
}

void Spilling::drained() {
  ranges_.clear();
  idle_ns_ = now_ns_;
}

bool Spilling::room(uint64_t bytes) const {
  if (state_ != State::kReady || !log_ || lingers()) return false;
  const uint64_t wanted = bytes + log_->held() + log::ReplicationLog::kReserveBytes;
  const uint64_t buffered = active() ? head() - buffered_from() : 0;
  return buffered + wanted <= buffer_.size() && spilled_bytes_ + wanted <= file_->bytes_max();
}

void Spilling::append(wire::RecordHeader &header, const void *payload) {
  if (!active()) {
    written_ = loaded_ = log_->head();
    chain_.last = {header.incarnation, header.predecessor};
    for (const auto &volume : volumes_) ranges_.emplace_back(volume->size_bytes);
  }
  const uint64_t bytes = log::ReplicationLog::record_bytes(header);
  CHECK(head() - buffered_from() + bytes <= buffer_.size() && spilled_bytes_ + bytes <= file_->bytes_max());
  spilled_bytes_ += log::ReplicationLog::put_record(buffer_.at(head()), header, payload);
  if (changes_data(header.type)) ranges_[header.volume_index].mark(header.offset, header.offset + header.length);
}

void Spilling::mark_dirty() const {
  for (size_t index = 0; index < ranges_.size(); index++) {
    Volume &volume = *volumes_[index];
    const log::DirtyMap &ranges = ranges_[index];
    const auto next = [&](uint64_t from) { return ranges.next_run(from, volume.size_bytes); };
    for (auto run = next(0); run.start < run.end; run = next(run.end))
      volume.each_replicated(run.start, run.end, [&](uint64_t start, uint64_t end) { volume.dirty.mark(start, end); });
  }
}

void Spilling::turn(uint64_t now_ns, bool stopping) {
  now_ns_ = now_ns;
  if (busy_ && state_ == State::kReady && now_ns - busy_since_ns_ > kSilentNs) give_up();
  if (busy_ || stopping || !thread_) return;
  if (state_ == State::kNew) return empty(false);
  if (state_ == State::kBroken) {
    if (now_ns >= retry_ns_) empty(true);
    return;
  }
  if (!active()) {
    if (used_ && now_ns - idle_ns_ >= kIdleNs) empty(false);
    return;
  }
  if ((read_next_ || !writes()) && read()) return;
  if (writes()) write();
}

bool Spilling::writes() const {
  return active() && head() - buffered_from() >= std::min<uint64_t>(kPieceBytes, buffer_.size() / 4);
}

void Spilling::start(std::function<int()> job, std::function<void(int)> ended) {
  busy_ = true;
  job_epoch_ = epoch_;
  busy_since_ns_ = now_ns_;
  thread_->submit([this, job = std::move(job), ended = std::move(ended)] {
    const int error = job();
    host_.post([this, error, ended] {
      busy_ = false;
      ended(error);
    });
  });
}

void Spilling::empty(bool probes) {
  start(
      [file = file_, probes] {
        const int error = file->empty();
        return error || !probes ? error : file->probe();
      },
      [this, probes](int error) {
        if (error) return fail(error, "reserve space");
        if (!buffer_.size()) {
          auto buffer = MirroredRing::create(buffer_bytes_);
          if (!buffer.ok()) return fail(buffer.status.error, "reserve memory");
          buffer_ = std::move(buffer.value);
        }
        used_ = probes;
        unsynced_ = 0;
        idle_ns_ = now_ns_;
        state_ = State::kReady;
        error_ = 0;
        if (std::exchange(said_, false))
          host_.events({"log",
                        {{"level", std::string("info")}, {"message", "log file " + file_->path() + ": it can be used again"}},
                        ""});
      });
}

void Spilling::write() {
  const uint64_t from = buffered_from(), bytes = std::min(head() - from, kJobBytes);
  const bool syncs = (unsynced_ += bytes) >= kSyncBytes;
  if (syncs) unsynced_ = 0;
  used_ = true;
  read_next_ = true;
  start(
      [this, from, bytes, syncs] {
        const int error = file_->write(buffer_.at(from), bytes, from);
        return error || !syncs ? error : file_->sync();
      },
      [this, from, bytes, epoch = epoch_](int error) {
        if (error) return fail(error, "write");
        if (epoch == epoch_ && active()) written_ = std::max(written_, from + bytes);
      });
}

// False: nothing to be read, or no space for it.
bool Spilling::read() {
  const bool from_file = loaded_ < written_;
  const uint64_t left = (from_file ? written_ : head()) - loaded_;
  const uint64_t taken = loaded_ - log_->head(), space = log_->space() - std::min(log_->space(), taken);
  const uint64_t bytes = std::min({left, space, kJobBytes});
  if (bytes == 0 || bytes < std::min({left, kPieceBytes, log_->bytes_max() / 8})) return false;
  auto job = std::make_shared<Read>(Read{log_, epoch_, loaded_, bytes, from_file, log_->head(), chain_});
  read_next_ = false;
  start(
      [this, job] {
        uint8_t *to = job->log->behind_head(job->from);
        if (!job->from_file) memcpy(to, buffer_.at(job->from), job->bytes);
        else if (const int error = file_->read(to, job->bytes, job->from)) return error;
        const uint64_t end = job->from + job->bytes;
        while (end - job->head >= sizeof(wire::RecordHeader)) {
          const wire::RecordHeader header = job->log->header_at(job->head);
          if (wire::check_header(header) != wire::RecordFault::kNone || !job->chain.follows(header)) return EBADMSG;
          const uint64_t size = log::ReplicationLog::record_bytes(header);
          if (end - job->head < size) break;
          const uint8_t *payload = job->log->at(job->head) + sizeof header;
          if (wire::check_payload(header, payload) != wire::RecordFault::kNone) return EBADMSG;
          job->chain.advance(header);
          job->head += size;
        }
        return 0;
      },
      [this, job](int error) {
        if (job->epoch == epoch_) read_ended(*job, error);
      });
  return true;
}

void Spilling::read_ended(const Read &read, int error) {
  if (error) return fail(error, "read");
  const uint64_t refilled = read.head - log_->head();
  CHECK(refilled <= spilled_bytes_);
  loaded_ = read.from + read.bytes;
  chain_ = read.chain;
  spilled_bytes_ -= refilled;
  log_->advance(read.head);
  if (!active()) drained();
}

void Spilling::fail(int error, const char *action) {
  state_ = State::kBroken;
  error_ = error;
  retry_ns_ = now_ns_ + kRetryNs;
  if (!std::exchange(said_, true)) {
    const std::string what = error == EBADMSG ? "what was read is not what was written"
                                              : Status::failed(error, action).message;
    host_.events({"log",
                  {{"level", std::string("error")},
                   {"message", "log file " + file_->path() + ": " + what +
                                   "; the dirty map takes its place until it can be used again"}},
                  ""});
  }
  if (active()) host_.lost();
}

int Spilling::wait_limit_ms(uint64_t now_ns) const {
  const auto until = [now_ns](uint64_t at) {
    return at <= now_ns ? 0 : static_cast<int>(std::min<uint64_t>((at - now_ns) / 1'000'000 + 1, 60'000));
  };
  if (busy_) return state_ == State::kReady ? until(busy_since_ns_ + kSilentNs) : -1;
  if (state_ == State::kBroken) return until(retry_ns_);
  if (state_ == State::kNew) return 0;
  return used_ && !active() ? until(idle_ns_ + kIdleNs) : -1;
}

void Spilling::show() {
  page_.set(kGroup_log_file_bytes, spilled_bytes_);
  page_.set(kGroup_log_file_errno, static_cast<uint64_t>(error_));
}

}  // namespace understudy::engine
