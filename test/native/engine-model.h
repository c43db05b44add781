// What tests of the engine share: a device in memory, a standby that is a model of one, and a client.
#pragma once
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "engine/group.h"
#include "engine/region-reader.h"

namespace engine_test {
using namespace understudy;
using namespace understudy::engine;
using wire::RecordType;

constexpr uint64_t kBlock = 4096, kBlocks = 520, kSize = kBlock * kBlocks;  // 32.5 regions: the last one is odd
using State = std::array<uint32_t, kBlocks>;                                // the stamp of each block; 0: zeroes

// A device in memory that sometimes refuses, and keeps its content then.
class MemoryDevice : public Device {
 public:
  explicit MemoryDevice(bool direct) {
    traits_.size_bytes = kSize;
    traits_.can_zero = true;
    traits_.direct = direct;  // everything goes to workers
  }
  int read(void *data, size_t bytes, uint64_t offset) override {
    std::lock_guard lock(mutex_);
    memcpy(data, bytes_.data() + offset, bytes);
    return 0;
  }
  int read_now(void *data, size_t bytes, uint64_t offset) override {
    return ++reads_ % 3 ? read(data, bytes, offset) : EAGAIN;  // some are cold
  }
  int write(const void *data, size_t bytes, uint64_t offset) override {
    if (refuse && ++writes_ % 17 == 0) return EIO;
    std::lock_guard lock(mutex_);
    memcpy(bytes_.data() + offset, data, bytes);
    return 0;
  }
  int zero(uint64_t offset, uint64_t bytes, ZeroHow, bool) override {
    std::lock_guard lock(mutex_);
    memset(bytes_.data() + offset, 0, bytes);
    return 0;
  }
  int flush() override { return 0; }
  std::vector<uint8_t> content() {
    std::lock_guard lock(mutex_);
    return bytes_;
  }
  std::atomic<bool> refuse{false};

 private:
  std::mutex mutex_;
  std::vector<uint8_t> bytes_ = std::vector<uint8_t>(kSize);
  std::atomic<unsigned> reads_{0}, writes_{0};
};

inline uint32_t stamp_of(const uint8_t *block) {  // ~0: the block is torn
  uint32_t first;
  memcpy(&first, block, 4);
  for (size_t at = 0; at < kBlock; at += 4)
    if (memcmp(block + at, &first, 4) != 0) return ~0u;
  return first;
}

// The standby: applies what the log hands out as the real one would. Nothing comes by a session that another one has
// followed, also if the engine hears of it late: the position that the next one was told would be an old one by then.
class Model final : public PeerLink {
 public:
  void bind(Group &group) { group_ = &group; }
  void start_records(uint64_t session, std::shared_ptr<log::ReplicationLog> log, uint64_t position) override {
    std::lock_guard lock(mutex_);
    if (session != session_) return;
    log_ = std::move(log);
    position_ = position;
  }
  void published(bool) override {}
  void request_hashes(uint64_t session, const wire::HashRequestBody &request) override {
    std::lock_guard lock(mutex_);
    if (session == session_) asked_.push_back(request);
    answer_hashes();
  }

  void request_data(uint64_t, const wire::HashRequestBody &) override { CHECK(false); }  // nothing is given back here

  // Takes up to `records` from the log. False: a record did not follow the one before it.
  bool pump(int records) {
    std::lock_guard lock(mutex_);
    for (; log_ && records > 0 && position_ < log_->published(); records--) {
      const wire::RecordHeader header = log_->header_at(position_);
      if (wire::check_header(header) != wire::RecordFault::kNone || !chain_.follows(header)) return false;
      chain_.advance(header);
      const uint8_t *payload = log_->at(position_) + sizeof header;
      std::vector<uint8_t> copy(payload, payload + header.payload_bytes);
      position_ += log::ReplicationLog::record_bytes(header);
      if (header.type == RecordType::kBegin) {
        staging_ = true;
        begin_ = header.sequence;
      }
      if (staging_) staged_.emplace_back(header, std::move(copy));
      else apply(header, copy);
      if (header.type == RecordType::kStep) {
        for (auto &[staged, data] : staged_) apply(staged, data);
        staged_.clear();
        staging_ = false;
        steps++;
      }
      log_->release(position_);
      answer_hashes();
      wire::WatermarksBody marks;
      marks.incarnation = header.incarnation;
      marks.received = marks.durable = marks.committed = marks.applied = {chain_.last.sequence, header.written_bytes};
      group_->marks_arrived(marks);
    }
    return true;
  }
  AttachRequest new_session() {
    std::lock_guard lock(mutex_);
    end_session();
    AttachRequest request;
    request.session = session_;
    request.peer = chain_.last;
    return request;
  }
  void lose_session() {
    std::lock_guard lock(mutex_);
    group_->post([group = group_, id = session_] { group->session_lost(id); });
    end_session();
  }
  wire::Position position() {
    std::lock_guard lock(mutex_);
    return chain_.last;
  }
  bool on_cut() {
    std::lock_guard lock(mutex_);
    return steps > 0;
  }
  std::vector<uint8_t> image() {
    std::lock_guard lock(mutex_);
    return image_;
  }
  std::atomic<int> steps{0};

 private:
  void end_session() {
    session_++;
    asked_.clear();
    log_.reset();
  }
  // An image that has not reached the begin of the step yet would give the hash of what records on the way change.
  void answer_hashes() {
    std::erase_if(asked_, [&](const wire::HashRequestBody &request) {
      if (request.begin_sequence > chain_.last.sequence) return false;
      if (request.begin_sequence != begin_) return true;
      std::vector<wire::HashEntry> entries(request.count);
      for (uint32_t i = 0; i < request.count; i++) {
        const uint64_t start = request.offset + i * wire::kRegionBytes, end = std::min(kSize, start + wire::kRegionBytes);
        for (const auto &[header, payload] : staged_)
          if (header.offset < end && header.offset + header.length > start) entries[i].flags = wire::kHashUnknown;
        hash_bytes(image_.data() + start, end - start, entries[i].hash);
      }
      group_->post([this, request, entries] { group_->hashes_arrived(request, entries); });
      return true;
    });
  }
  void apply(const wire::RecordHeader &header, const std::vector<uint8_t> &data) {
    if (header.type == RecordType::kWrite || header.type == RecordType::kSync)
      memcpy(image_.data() + header.offset, data.data(), header.length);
    if (header.type == RecordType::kZero || header.type == RecordType::kTrim)
      memset(image_.data() + header.offset, 0, header.length);
  }
  std::mutex mutex_;
  Group *group_ = nullptr;
  uint64_t session_ = 0, position_ = 0;
  std::shared_ptr<log::ReplicationLog> log_;
  wire::Chain chain_;
  bool staging_ = false;
  uint64_t begin_ = 0;  // of the step that is open, or was last
  std::vector<wire::HashRequestBody> asked_;
  std::vector<std::pair<wire::RecordHeader, std::vector<uint8_t>>> staged_;
  std::vector<uint8_t> image_ = std::vector<uint8_t>(kSize, 0xee);  // the first pass has to find every byte
};

// One client, one request at a time, so that the master's states are a list.
class Client {
 public:
  explicit Client(int fd) : fd_(fd) {}
  ~Client() { close(fd_); }
  uint32_t ask(uint16_t type, uint64_t offset, uint32_t length, const void *payload = nullptr) {
    nbd::Request request{htobe32(nbd::kRequestMagic), 0, htobe16(type), htobe64(++cookie_), htobe64(offset),
                         htobe32(length)};
    if (!put(&request, sizeof request) || (payload && !put(payload, length))) return ~0u;
    nbd::SimpleReply reply;
    if (!get(&reply, sizeof reply) || be64toh(reply.cookie) != cookie_) return ~0u;
    read.resize(type == nbd::kRead && !reply.error ? length : 0);
    if (!get(read.data(), read.size())) return ~0u;
    return be32toh(reply.error);
  }
  std::vector<uint8_t> read;

 private:
  bool put(const void *data, size_t bytes) { return send(fd_, data, bytes, MSG_NOSIGNAL) == static_cast<ssize_t>(bytes); }
  bool get(void *data, size_t bytes) {
    return bytes == 0 || recv(fd_, data, bytes, MSG_WAITALL) == static_cast<ssize_t>(bytes);
  }
  int fd_;
  uint64_t cookie_ = 0;
};

}  // namespace engine_test
