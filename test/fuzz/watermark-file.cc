// sources: native/replay/watermark-file.cc native/replay/file-io.cc native/core/core.cc native/core/crc32c.cc  libs:
// The standby's watermark: a damaged file gives a watermark that was written, or none (G8).
#include "replay/watermark-file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "core/check.h"
#include "fuzz.h"

using namespace understudy::replay;

void fuzz::round(fuzz::Random &random) {
  static const std::string folder = "/dev/shm/understudy-fuzz-" + std::to_string(getpid());
  const std::string path = folder + "/watermark";
  mkdir(folder.c_str(), 0700);
  std::vector<Watermark> written;
  {
    auto opened = WatermarkFile::open(folder);
    CHECK(opened.ok() && opened.value.load().ok());
    for (uint64_t count = 1 + random.below(5); count; count--) {
      Watermark mark;
      mark.applied = {random.odd(), random.odd()};
      mark.bytes = random.odd();
      mark.log_offset = random.odd();
      mark.durable_offset = random.odd();
      CHECK(opened.value.store(mark) == 0);
      written.push_back(mark);
    }
  }
  fuzz::Bytes bytes(16 << 10);
  int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
  bytes.resize(static_cast<size_t>(std::max<ssize_t>(0, read(fd, bytes.data(), bytes.size()))));
  fuzz::mutate(bytes, random);
  CHECK(ftruncate(fd, 0) == 0 && pwrite(fd, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
  close(fd);
  {
    auto opened = WatermarkFile::open(folder);
    if (opened.ok()) {
      const auto found = opened.value.load();
      bool known = !found.ok() || !found.value;
      for (const Watermark &mark : written)
        known |= found.ok() && found.value && found.value->applied.incarnation == mark.applied.incarnation &&
                 found.value->applied.sequence == mark.applied.sequence && found.value->bytes == mark.bytes &&
                 found.value->log_offset == mark.log_offset;
      CHECK(known);
    }
  }
  unlink(path.c_str());
  rmdir(folder.c_str());
}
