#include "filesystem/signature.h"

#include <blkid/blkid.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <memory>

#include "core/fd.h"

namespace understudy::filesystem {
namespace {

struct FreeProbe {
  void operator()(blkid_probe probe) const { blkid_free_probe(probe); }
};

constexpr uint64_t kEdgeBytes = 4u << 20;  // signatures are at the beginning or at the end

// libblkid wants one piece. A space of several is shown to it as a sparse file with its two ends.
Result<Fd> edges_of(const Space &space) {
  Fd file(memfd_create("understudy-signature", MFD_CLOEXEC));
  if (!file || ftruncate(file.get(), static_cast<off_t>(space.size_bytes())) != 0) return Status::failed(errno, "read signatures: memory");
  std::string edge;
  const auto copy = [&](uint64_t from, uint64_t to) {
    edge.resize(to - from);
    if (auto status = space.read(from, edge.data(), edge.size()); !status.ok()) return status;
    const ssize_t n = pwrite(file.get(), edge.data(), edge.size(), static_cast<off_t>(from));
    return n == static_cast<ssize_t>(edge.size()) ? Status::good() : Status::failed(errno, "read signatures: memory");
  };
  const uint64_t size = space.size_bytes(), head = std::min(size, kEdgeBytes);
  if (auto status = copy(0, head); !status.ok()) return status;
  if (auto status = copy(std::max(head, size - std::min(size, kEdgeBytes)), size); !status.ok()) return status;
  return file;
}

Result<Signature> probe(int fd, uint64_t offset, uint64_t bytes) {
  const std::unique_ptr<struct blkid_struct_probe, FreeProbe> probe(blkid_new_probe());
  if (!probe) return Status::failed(ENOMEM, "read signatures: libblkid");
  if (blkid_probe_set_device(probe.get(), fd, static_cast<blkid_loff_t>(offset), static_cast<blkid_loff_t>(bytes)) != 0)
    return Status::failed(EIO, "read signatures: libblkid cannot probe the device");
  blkid_probe_enable_superblocks(probe.get(), 1);
  blkid_probe_set_superblocks_flags(probe.get(), BLKID_SUBLKS_TYPE | BLKID_SUBLKS_LABEL | BLKID_SUBLKS_UUID);
  errno = 0;
  const int answer = blkid_do_safeprobe(probe.get());
  if (answer == -1 || (answer == 1 && errno == EIO)) return Status::failed(errno ? errno : EIO, "read signatures at " + std::to_string(offset));
  Signature found;
  if (answer == -2) found.kind = "ambiguous";
  if (answer != 0) return found;
  const auto value = [&](const char *name) {
    const char *text = nullptr;
    return std::string(blkid_probe_lookup_value(probe.get(), name, &text, nullptr) == 0 && text ? text : "");
  };
  found.kind = value("TYPE"), found.label = value("LABEL"), found.uuid = value("UUID");
  found.block_bytes = strtoull(value("BLOCK_SIZE").c_str(), nullptr, 10);
  return found;
}

}  // namespace

Result<Signature> read_signature(const Space &space) {
  if (space.size_bytes() == 0) return Signature{};
  if (space.pieces().size() == 1 && space.pieces()[0].offsets.size() == 1)
    return probe(space.fd(), space.pieces()[0].offsets[0], space.size_bytes());
  auto edges = edges_of(space);
  if (!edges.ok()) return edges.status;
  return probe(edges.value.get(), 0, space.size_bytes());
}

}  // namespace understudy::filesystem
