#include "link/batch-sink.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

namespace understudy::link {

Status BatchSink::receive(std::span<const uint8_t> bytes, replay::RecordRoom &room) {
  if (!broken_.ok()) return broken_;
  size_t taken = 0;
  if (waiting_.empty()) {  // small batches: expanded from where the transport has them
    broken_ = take(bytes, room, taken);
    waiting_.assign(bytes.begin() + static_cast<ptrdiff_t>(taken), bytes.end());
    return broken_;
  }
  waiting_.insert(waiting_.end(), bytes.begin(), bytes.end());
  broken_ = take(std::span(waiting_).subspan(at_), room, taken);
  at_ += taken;
  if (at_ > waiting_.size() / 2) {  // seldom enough for what it costs
    waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<ptrdiff_t>(std::exchange(at_, 0)));
    if (waiting_.empty()) waiting_.shrink_to_fit();
  }
  return broken_;
}

Status BatchSink::take(std::span<const uint8_t> bytes, replay::RecordRoom &room, size_t &taken) {
  const auto pass = [&](size_t count) {
    bytes = bytes.subspan(count);
    taken += count;
    consumed_ += count;
  };
  for (;;) {
    if (left_ == 0) {
      if (bytes.size() < sizeof header_) return Status::good();
      memcpy(&header_, bytes.data(), sizeof header_);
      if (!header_.is_sound())
        return Status::failed(EPROTO, "receive: a batch of " + std::to_string(header_.bytes) + " for " +
                                          std::to_string(header_.raw_bytes) + " bytes");
      left_ = header_.bytes;
      pass(sizeof header_);
    }
    const bool is_compressed = header_.is_compressed();
    if (is_compressed ? bytes.size() < left_ : bytes.empty()) return Status::good();
    const size_t in = std::min(bytes.size(), left_), out = is_compressed ? header_.raw_bytes : in;
    uint8_t *const place = room.place(out);
    if (!place) return Status::good();
    if (!is_compressed) memcpy(place, bytes.data(), in);
    else if (!codec_->expand(bytes.first(in), place, out)) return Status::failed(EPROTO, "receive: a batch cannot be expanded");
    left_ -= in;
    pass(in);
    if (Status status = room.placed(out); !status.ok()) return status;
  }
}

}  // namespace understudy::link
