// sources: native/log/mark-file.cc native/log/dirty-map.cc native/core/core.cc native/core/crc32c.cc  libs:
// The dirty map on disk: a damaged file is refused, or has every mark that was in it (G4, G8).
#include "log/mark-file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include "core/check.h"
#include "fuzz.h"

using namespace understudy::log;

namespace {
constexpr uint64_t kSize = 2 * MarkFile::kBlockWords * 64 * DirtyMap::kRegion - 5 * DirtyMap::kRegion;
const MarkFile::Owner kOwner{"uuid", kSize};

fuzz::Bytes contents(const std::string &path) {
  fuzz::Bytes bytes(64 << 10);
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const ssize_t n = read(fd, bytes.data(), bytes.size());
  close(fd);
  bytes.resize(n < 0 ? 0 : static_cast<size_t>(n));
  return bytes;
}
}  // namespace

void fuzz::round(fuzz::Random &random) {
  static const std::string path = "/dev/shm/understudy-fuzz-" + std::to_string(getpid());
  DirtyMap map(kSize);
  std::vector<uint64_t> words(MarkFile::kBlockWords);
  const auto words_of = [&](uint64_t block) {
    for (uint64_t i = 0; i < words.size(); i++) {
      const uint64_t at = block * words.size() + i;
      words[i] = at < map.words() ? map.word(at) : 0;
    }
    return words.data();
  };
  {
    auto created = MarkFile::create(path, kOwner, {1, 2});
    CHECK(created.ok());
    MarkFile &file = *created.value;
    for (uint64_t block = 0; block < 2; block++) CHECK(file.fill(block, words_of(block)) == 0);
    CHECK(file.publish() == 0);
    for (uint64_t count = random.below(6); count; count--) {
      const uint64_t start = random.below(kSize / DirtyMap::kRegion) * DirtyMap::kRegion;
      map.mark(start, std::min(kSize, start + (1 + random.below(100)) * DirtyMap::kRegion));
      for (uint64_t block = 0; block < 2; block++) CHECK(file.write(block, words_of(block)) == 0);
      if (random.one_in(3)) CHECK(file.write_floor({random.odd(), random.odd()}) == 0);
    }
  }
  fuzz::Bytes bytes = contents(path);
  if (!random.one_in(8)) fuzz::mutate(bytes, random);
  const int fd = open(path.c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC);
  CHECK(write(fd, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  close(fd);
  DirtyMap found(kSize);
  auto opened = MarkFile::open(path, kOwner, found);
  unlink(path.c_str());
  if (!opened.ok()) return;
  for (uint64_t i = 0; i < map.words(); i++) CHECK((map.word(i) & ~found.word(i)) == 0);
}
