// sources: native/link/frames.cc native/core/core.cc native/core/crc32c.cc  libs:
// Control frames: what is cut out of a damaged stream is a prefix of what was sent (G8), at most one frame is held.
#include "link/frames.h"

#include "core/check.h"
#include "fuzz.h"

using namespace understudy;

void fuzz::round(fuzz::Random &random) {
  fuzz::Bytes stream;
  std::vector<fuzz::Bytes> sent;
  for (uint64_t count = random.below(8); count; count--) {
    fuzz::Bytes body(random.one_in(3) ? random.below(wire::kFrameBytesMax + 1) : random.below(200));
    for (auto &byte : body) byte = static_cast<uint8_t>(random.below(256));
    const auto frame = link::make_frame(static_cast<wire::FrameType>(random.below(8)), body.data(), body.size());
    stream.insert(stream.end(), frame.begin(), frame.end());
    sent.push_back(std::move(body));
  }
  const bool damaged = !random.one_in(4);
  if (damaged) fuzz::mutate(stream, random);
  link::FrameReader reader;
  Status status = Status::good();
  size_t got = 0, lost = 0;
  fuzz::in_pieces(stream, random, [&](std::span<const uint8_t> part) {
    if (!status.ok()) return;
    status = reader.feed(part, [&](wire::FrameType, std::span<const uint8_t> body) {
      while (got < sent.size() && !std::equal(body.begin(), body.end(), sent[got].begin(), sent[got].end())) got++, lost++;
      CHECK(got < sent.size());  // a body that nobody sent
      got++;
    });
  });
  CHECK(damaged || (status.ok() && got == sent.size() && lost == 0));
}
