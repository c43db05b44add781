// sources: native/filesystem/*.cc native/partition/*.cc native/core/core.cc  libs: -lblkid -lext2fs -lcom_err
// What a watch says to the writes of a client: which ranges may still be left out.
#include "filesystem-support.h"

#include "filesystem/watch.h"

using namespace filesystem_test;

namespace {

void put(const std::string &image, uint64_t offset, const std::string &bytes) {
  Fd fd = open_image(image, O_WRONLY);
  must(pwrite(fd.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset)) == static_cast<ssize_t>(bytes.size()), "write " + image);
}

void swap_areas() {
  {
    Fd fd = open_image("swap.img", O_RDWR | O_CREAT | O_TRUNC);
    must(ftruncate(fd.get(), 4 * kMiB) == 0, "ftruncate");
  }
  shell("mkswap -q swap.img");
  Fd fd = open_image("swap.img");
  auto found = find_filesystems(fd.get());
  auto listing = list_files(found.value.at(0), {});
  const auto make = [&](uint8_t out) { return make_watch(found.value.at(0), listing.value, {out}, {}); };
  auto watch = make(1);
  ok(watch.ok() && watch.value->ranges().size() == 1 && watch.value->ranges()[0].offset == 4096 && watch.value->ranges()[0].bytes == 4 * kMiB - 4096 && watch.value->start().kind == Verdict::kNothing,
     "a swap area is left out but for its first page");
  ok(make(0).value->ranges().empty(), "or not at all, when no rule says so");
  put("swap.img", 4096, std::string(8192, 's'));
  ok(watch.value->wrote(4096, 8192).kind == Verdict::kNothing && watch.value->wrote(0, 8192).kind == Verdict::kNothing, "what is swapped out, and the same header again, changes nothing");
  auto late = make(1);
  shell("mkswap -q swap.img");
  ok(watch.value->wrote(0, 4096).kind == Verdict::kStale && watch.value->wrote(0, 4096).kind == Verdict::kNothing, "mkswap over it: stale, once");
  ok(late.value->start().kind == Verdict::kStale, "and before the watch has started");
}

}  // namespace

int main() {
  begin();
  swap_areas();
  return finish();
}
