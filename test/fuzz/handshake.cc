// sources: native/link/*.cc native/core/*.cc native/wire/*.cc native/log/replication-log.cc  libs: -lzstd -llz4
// The first frames and records of a session on the standby's link, from a peer that has a key and no manners: before the
// welcome nothing gets anywhere; after it only whole, good frames do; what is refused ends the session, and nothing
// comes after the end.
#include <deque>

#include "core/check.h"
#include "fuzz.h"
#include "link/link.h"

using namespace understudy;

namespace {

class Session final : public quic::Session {
 public:
  bool send_control(std::span<const uint8_t> bytes) override {
    CHECK(!closed);
    sent += bytes.size();
    return sent < 1u << 20;
  }
  void attach_records(quic::RecordSource *) override { CHECK(!"a standby sends no records"); }
  void records_consumed(size_t) override {}
  void turn_within(uint64_t) override {}
  void expect_more() override {}
  void close(const std::string &) override { closed = true; }
  bool closed = false;
  size_t sent = 0;
};

class Endpoint final : public quic::Endpoint {  // its thread is whoever asks
 public:
  uint16_t local_port() const override { return 1; }
  void allow(std::set<std::string>) override {}
  void set_identity(const quic::Identity &) override {}
  quic::SessionId connect(const std::string &, uint16_t, const std::string &) override { return 0; }
  void post(std::function<void()> task) override { task(); }
  void close(quic::SessionId, const std::string &) override {}
  void wake() override {}
  void wake_lazily() override {}
  void turn_now(quic::SessionId) override {}
  quic::Session *find(quic::SessionId id) override { return session && !session->closed && id == session->id ? session : nullptr; }
  Session *session = nullptr;
};
Endpoint *endpoint = nullptr;

class Replica final : public replay::Replica {
 public:
  explicit Replica(fuzz::Random &random) : random_(random) {}
  const replay::ReplicaState &state() const override { return state_; }
  wire::Position start_session() override { return {}; }
  Status receive(std::span<const uint8_t> bytes) override {
    received += bytes.size();
    return random_.one_in(6) ? Status::failed(EPROTO, "receive") : Status::good();
  }
  uint8_t *place(size_t bytes) override {
    if (random_.one_in(3)) return nullptr;
    room_.resize(bytes);
    return room_.data();
  }
  Status placed(size_t bytes) override { return receive({room_.data(), bytes}); }
  size_t take_consumed() override { return random_.below(100); }
  wire::WatermarksBody watermarks() const override {
    wire::WatermarksBody body{};
    body.incarnation = random_.below(3);
    return body;
  }
  Status hash(const wire::HashRequestBody &) override {
    questions++;
    return random_.one_in(6) ? Status::failed(EINVAL, "hash") : Status::good();
  }
  Status tell(const wire::HashRequestBody &request) override { return hash(request); }
  Status give_up_cut() override { return Status::good(); }
  void set_staging_max(uint64_t) override {}
  Status drain(uint64_t) override { return Status::good(); }
  Status seal(uint64_t, std::optional<wire::Position> *) override { return Status::good(); }
  std::unique_ptr<Device> over_unapplied(std::unique_ptr<Device> image, size_t) override { return image; }
  void stand_aside(bool) override {}
  Status catch_up(uint64_t) override { return Status::good(); }
  Result<View> view(size_t, bool) override { return Status::failed(ENODATA, "view"); }
  std::optional<replay::HistorySummary> history() const override { return std::nullopt; }
  Result<replay::HistoryTimeline> timeline(uint64_t, uint64_t, size_t) const override { return Status::failed(ENODATA, "timeline"); }
  Result<Views> views(const std::vector<size_t> &, const replay::Moment &, bool) override { return Status::failed(ENODATA, "views"); }
  Result<replay::Point> clone(size_t, const std::string &, std::span<const uint8_t>) override { return Status::failed(ENODATA, "clone"); }
  Result<Found> find(const replay::Moment &) override { return Status::failed(ENODATA, "find"); }
  void hold_history(bool) override {}
  Result<RolledBack> roll_back(const wire::Position &, uint64_t) override { return Status::failed(ENODATA, "roll back"); }
  uint64_t received = 0, questions = 0;

 private:
  fuzz::Random &random_;
  fuzz::Bytes room_;
  replay::ReplicaState state_;
};

fuzz::Bytes make_frames(fuzz::Random &random, uint64_t *frames) {
  fuzz::Bytes stream;
  for (uint64_t count = 1 + random.below(6); count; count--) {
    const auto type = static_cast<wire::FrameType>(random.below(9));
    fuzz::Bytes body(random.one_in(4) ? random.below(300) : sizeof(wire::HashRequestBody));
    for (auto &byte : body) byte = static_cast<uint8_t>(random.below(256));
    ++*frames;
    const auto frame = link::make_frame(type, body.data(), body.size());
    stream.insert(stream.end(), frame.begin(), frame.end());
  }
  if (random.one_in(3)) fuzz::mutate(stream, random);
  return stream;
}

}  // namespace

// A session's parts, put together by Link::open().
Result<std::unique_ptr<quic::Endpoint>> quic::Endpoint::open(const quic::EndpointOptions &, quic::SessionHandler &) {
  auto made = std::make_unique<::Endpoint>();
  endpoint = made.get();
  return std::unique_ptr<quic::Endpoint>(std::move(made));
}

// What links need of a master's group; there is none on a standby.
void engine::Group::post(std::function<void()>) { CHECK(!"no group here"); }
void engine::Group::session_lost(uint64_t) { CHECK(!"no group here"); }
void engine::Group::marks_arrived(const wire::WatermarksBody &) { CHECK(!"no group here"); }
void engine::Resync::hashes_arrived(const wire::HashReplyBody &, const std::vector<wire::HashEntry> &) { CHECK(!"no group here"); }
void engine::Resync::data_arrived(const wire::DataReplyBody &, const std::vector<uint8_t> &) { CHECK(!"no group here"); }
void engine::Verifier::result(const wire::VerifyResultBody &) { CHECK(!"no group here"); }

void fuzz::round(fuzz::Random &random) {
  uint64_t told = 0, frames = 0;
  const auto sink = [&](Event event) { told += event.type == "session-message"; };
  Replica replica(random);
  const CounterPage page = CounterPages::instance().take();
  {
    link::Link link(sink);
    CHECK(link.open({}).ok());
    link::ReplicaLink replica_link(1, sink, page);
    replica_link.bind(replica);
    Session session;
    session.id = 1;
    endpoint->session = &session;
    quic::SessionHandler &handler = link;
    handler.established(session);
    bool welcomed = false;
    for (uint64_t step = 1 + random.below(8); step && !session.closed; step--) {
      if (!welcomed && random.one_in(3)) welcomed = replica_link.attach(link, 1, static_cast<link::Compression>(random.below(3))).ok();
      const uint64_t before = replica.received + replica.questions;
      if (random.one_in(4)) {
        const fuzz::Bytes records(1 + random.below(300));
        handler.records_received(session, records);
        CHECK(welcomed || session.closed);
      } else {
        const fuzz::Bytes stream = make_frames(random, &frames);
        fuzz::in_pieces(stream, random, [&](std::span<const uint8_t> part) {
          if (!session.closed) handler.control_received(session, part);
        });
      }
      CHECK(welcomed || replica.received + replica.questions == before);
      if (!session.closed) handler.turn(session);
    }
    CHECK(told + replica.questions <= frames);  // none out of nothing: the checksums
    handler.closed(session, quic::CloseReason::kPeer, "");
    endpoint->session = nullptr;
  }
  CounterPages::instance().give_back(page);
}
