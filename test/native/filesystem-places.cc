// sources: native/filesystem/*.cc native/partition/*.cc native/core/core.cc native/core/crc32c.cc  libs: -lblkid -lext2fs -lcom_err
// Where file systems lie: in partitions, beside what cannot be read, and in LVM2's logical volumes. The volume groups
// are written here as LVM2 2.03 writes them (the image that lvm2 itself made is read in the same way; it takes root and loop devices).
#include "filesystem-support.h"

#include "filesystem/lvm-text.h"

using namespace filesystem_test;

namespace {

std::vector<FileSystem> find(const std::string &name) {
  static Fd fd;  // the spaces read from it
  fd = open_image(name);
  auto found = find_filesystems(fd.get());
  if (!found.ok()) printf("# %s\n", found.status.message.c_str());
  for (const FileSystem &one : found.value)
    printf("# %s: %u %s %s %llu %s\n", name.c_str(), one.partition, one.logical_volume.c_str(), one.kind.c_str(), static_cast<unsigned long long>(one.size_bytes), one.unread.c_str());
  return std::move(found.value);
}

const FileSystem *volume(const std::vector<FileSystem> &all, const std::string &name) {
  for (const FileSystem &one : all)
    if (one.logical_volume == name) return &one;
  return nullptr;
}
// And the reason has this word in it.
bool unread(const FileSystem *one, const std::string &word = "") {
  return one && !one->unread.empty() && one->unread.find(word) != std::string::npos && !list_files(*one, {}).ok();
}

void partitions() {
  make_empty("disk.img", 64 * kMiB);
  shell("printf 'label: gpt\\nstart=1MiB,size=20MiB\\nstart=21MiB,size=8MiB\\nstart=30MiB,size=8MiB\\nstart=40MiB,size=8MiB\\n' | sfdisk -q disk.img");
  shell("mke2fs -q -F -t ext4 -b 4096 -L root -d tree -E offset=1048576 disk.img 20M");
  make_empty("swap.img", 8 * kMiB);
  shell("mkswap -q -L swapped swap.img");
  put_bytes("disk.img", 21 * kMiB, content_of("swap.img"));
  put_bytes("disk.img", 30 * kMiB, std::string("LUKS\xba\xbe\0\1", 8));
  for (uint64_t at = 21 * kMiB + 8192; at < 29 * kMiB; at += kSector) put_bytes("disk.img", at, sector_of(9, at));  // what was swapped out

  const auto found = find("disk.img");
  ok(found.size() == 4 && found[0].kind == "ext4" && found[0].label == "root" && found[0].partition == 1 && found[0].block_bytes == 4096,
     "a file system in a partition");
  ok(found[1].kind == "swap" && found[1].label == "swapped" && found[1].partition == 2, "a swap area");
  ok(found[2].kind == "luks" && unread(&found[2]) && found[3].kind == "unknown" && unread(&found[3]), "encrypted and unknown content is not read, and said to be that");
  Listing root = read_one("disk.img"), swap = read_one("disk.img", 1);
  // The area is one file, so that both can be held against the image at once.
  for (Extent extent : swap.extents) root.extents.push_back({extent.offset, extent.bytes, static_cast<uint32_t>(root.files.size())});
  root.files.push_back(swap.files[0]);
  root.directories.push_back(root.directories[0]);
  root.links.push_back({static_cast<uint32_t>(root.files.size()) - 1, 0, static_cast<uint32_t>(root.names.size()), static_cast<uint32_t>(root.names.size()) + 4});
  root.names += "swap";
  const std::string difference = differs("disk.img", root, {{1, "/data"}, {2, "/holes"}, {9, "/swap"}});
  if (!difference.empty()) printf("# %s\n", difference.c_str());
  ok(difference.empty() && swap.extents.size() == 1 && swap.extents[0].offset == 21 * kMiB + 4096 && swap.extents[0].bytes == 8 * kMiB - 4096,
     "extents count from the start of the device; of a swap area everything but its first page is the file /swap");

  put_bytes("disk.img", 21 * kMiB + 4086, "S1SUSPEND\0");
  ok(unread(&find("disk.img")[1]), "a swap area with a hibernated system in it is not read");
  put_bytes("disk.img", 21 * kMiB + 4086, "SWAPSPACE2");
  put_bytes("disk.img", 21 * kMiB + 1028, std::string(4, '\xff'));
  swap = read_one("disk.img", 1);
  ok(swap.extents.size() == 1 && swap.extents[0].offset + swap.extents[0].bytes == 29 * kMiB, "a swap area that says it is larger ends where its partition does");

  shell("printf 'label: dos\\nstart=1MiB,size=20MiB\\nstart=21MiB,size=8MiB\\n' | sfdisk -q --wipe never --wipe-partitions never disk.img");
  const unsigned char longer[4] = {0, 0xf0, 0, 0};  // sectors of the first partition: up to 31 MiB
  put_bytes("disk.img", 446 + 12, {reinterpret_cast<const char *>(longer), 4});
  const auto over = find("disk.img");
  ok(over.size() == 2 && unread(&over[0]) && unread(&over[1]), "partitions that overlap are not read");
}

void whole_device() {
  make_empty("whole.img", 24 * kMiB);
  shell("mke2fs -q -F -t ext4 -b 4096 -d tree whole.img");
  ok(find("whole.img").size() == 1 && differs("whole.img", read_one("whole.img"), {{1, "/data"}, {2, "/holes"}}).empty(), "a file system without a partition table around it");
  shell("printf 'label: dos\\nstart=1MiB,size=20MiB\\n' | sfdisk -q --wipe never whole.img");
  const auto both = find("whole.img");
  ok(both.size() == 1 && unread(&both[0]), "a partition table in the boot sector of a file system: neither is believed");
  make_empty("bitlocker.img", 4 * kMiB);
  put_bytes("bitlocker.img", 0, "\xeb\x52\x90-FVE-FS-");
  ok(unread(&find("bitlocker.img")[0], "encrypted"), "what BitLocker has encrypted is not read, and said to be that");
  make_empty("empty.img", 4096);
  ok(find("empty.img").size() == 1 && unread(&find("empty.img")[0]), "an empty device is unknown");
}

uint32_t checksum(std::string_view data) {
  uint32_t crc = 0xf597a6cf;
  for (const char c : data) {
    crc ^= static_cast<uint8_t>(c);
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
  }
  return crc;
}
// Label, header and one metadata area of 1020 KiB behind 4 KiB. The text wraps around the end of the area's ring.
void put_physical_volume(const std::string &name, uint64_t offset, const std::string &uuid, const std::string &text) {
  constexpr uint64_t kArea = 4096, kAreaBytes = (1020 << 10), kText = kAreaBytes - 1000;
  std::string label(kSector, '\0'), header(kSector, '\0');
  label.replace(0, 8, "LABELONE"), set<uint64_t>(label, 8, 1), set<uint32_t>(label, 20, 32), label.replace(24, 8, "LVM2 001");
  label.replace(32, 32, uuid);
  set<uint64_t>(label, 72, kMiB);                                             // data; an empty pair ends the list
  set<uint64_t>(label, 104, kArea), set<uint64_t>(label, 112, kAreaBytes);
  set<uint32_t>(label, 16, checksum(std::string_view(label).substr(20)));
  header.replace(4, 16, " LVM2 x[5A%r0N*>"), set<uint32_t>(header, 20, 1), set<uint64_t>(header, 24, kArea), set<uint64_t>(header, 32, kAreaBytes);
  set<uint64_t>(header, 40, kText), set<uint64_t>(header, 48, text.size() + 1), set<uint32_t>(header, 56, checksum(text + '\0'));
  set<uint32_t>(header, 0, checksum(std::string_view(header).substr(4)));
  put_bytes(name, offset + kSector, label);
  put_bytes(name, offset + kArea, header);
  const std::string whole = text + '\0';
  put_bytes(name, offset + kArea + kText, whole.substr(0, 1000));
  if (whole.size() > 1000) put_bytes(name, offset + kArea + kSector, whole.substr(1000));
}

std::string segment(int number, int start, int extents, const std::string &rest) {
  return "segment" + std::to_string(number) + " {\nstart_extent = " + std::to_string(start) + "\nextent_count = " + std::to_string(extents) + "\n" + rest + "\n}\n";
}
std::string logical_volume(const std::string &name, const std::string &status, int segments, const std::string &list) {
  return name + " {\nid = \"x\"\nstatus = [" + status + "]\nflags = []\ncreation_time = 1 # of a \"volume\"\nsegment_count = " + std::to_string(segments) + "\n" + list + "}\n";
}

constexpr char kFirst[] = "Scs6aYFwxtM3h9JsN7sjRK3cPBUr0u3M", kSecond[] = "XIJrqyVqDQ87ntU0xBjtw4JtKoGrRrP3";

std::string group(int sequence, const std::string &volumes) {
  return "vg0 {\nid = \"P0qejH-5XPz-HNxD-sJuZ-a5Lf-LXMP-ZvqJac\"\nseqno = " + std::to_string(sequence) +
         "\nformat = \"lvm2\"\nstatus = [\"RESIZEABLE\", \"READ\", \"WRITE\"]\nextent_size = 8192\nphysical_volumes {\n"
         "pv0 {\nid = \"Scs6aY-Fwxt-M3h9-JsN7-sjRK-3cPB-Ur0u3M\"\ndevice = \"/dev/a\"\npe_start = 2048\npe_count = 15\n}\n"
         "pv1 {\nid = \"XIJrqy-VqDQ-87nt-U0xB-jtw4-JtKo-GrRrP3\"\npe_start = 2048\npe_count = 15\n}\n"
         "pv2 {\nid = \"AAAAAA-VqDQ-87nt-U0xB-jtw4-JtKo-GrRrP3\"\npe_start = 2048\npe_count = 15\n}\n}\n"
         "logical_volumes {\n" + volumes + "}\n}\n# Generated by LVM2\ncontents = \"Text Format Volume Group\"\nversion = 1\n";
}
std::string striped(const std::string &stripes, int count, const std::string &size = "") {
  return "type = \"striped\"\nstripe_count = " + std::to_string(count) + "\n" + size + "stripes = [" + stripes + "]";
}

void logical_volumes() {
  const std::string visible = "\"READ\", \"WRITE\", \"VISIBLE\"";
  const std::string linear = logical_volume("linear", visible, 2, segment(1, 0, 5, striped("\"pv0\", 0", 1)) + segment(2, 5, 3, striped("\n\"pv1\", 2\n", 1)));
  const std::string stripes = logical_volume("stripes", visible, 1, segment(1, 0, 4, striped("\"pv0\", 5, \"pv1\", 0", 2, "stripe_size = 128\n")));
  const std::string others =
      logical_volume("elsewhere", visible, 1, segment(1, 0, 2, striped("\"pv2\", 0", 1))) +
      logical_volume("mirror", visible, 1, segment(1, 0, 1, "type = \"raid1\"\nraids = [\"mirror_0\", \"mirror_1\"]")) +
      logical_volume("mirror_0", "\"READ\"", 1, segment(1, 0, 1, striped("\"pv0\", 7", 1))) +
      logical_volume("origin", visible, 1, segment(1, 0, 1, striped("\"pv0\", 8", 1))) + logical_volume("kept", "\"READ\"", 1, segment(1, 0, 1, striped("\"pv0\", 9", 1))) +
      logical_volume("snapshot0", "\"READ\"", 1, segment(1, 0, 1, "type = \"snapshot\"\norigin = \"origin\"\ncow_store = \"kept\""));
  make_empty("lvm.img", 130 * kMiB);
  shell("printf 'label: gpt\\nstart=1MiB,size=63MiB\\nstart=64MiB,size=64MiB\\n' | sfdisk -q lvm.img");
  put_physical_volume("lvm.img", kMiB, kFirst, group(3, ""));  // not written yet with the others
  put_physical_volume("lvm.img", 64 * kMiB, kSecond, group(4, linear + stripes + others));

  const auto place = [](uint64_t disk, uint64_t extent) { return (disk ? 64 : 1) * kMiB + kMiB + extent * 4 * kMiB; };
  make_empty("inner.img", 32 * kMiB);
  shell("mke2fs -q -F -t ext4 -b 4096 -d tree inner.img");
  const std::string inner = content_of("inner.img");
  put_bytes("lvm.img", place(0, 0), inner.substr(0, 20 * kMiB));
  put_bytes("lvm.img", place(1, 2), inner.substr(20 * kMiB));
  make_empty("striped.img", 16 * kMiB);
  shell("mke2fs -q -F -t ext4 -b 1024 -d tree2 striped.img");
  const std::string across = content_of("striped.img");
  for (uint64_t i = 0; i < 16 * kMiB / 65536; i++) put_bytes("lvm.img", place(i % 2, i % 2 ? 0 : 5) + i / 2 * 65536, across.substr(i * 65536, 65536));

  const auto found = find("lvm.img");
  const FileSystem *one = volume(found, "vg0/linear"), *two = volume(found, "vg0/stripes");
  ok(one && two && one->kind == "ext4" && two->kind == "ext4" && one->size_bytes == 32 * kMiB && two->size_bytes == 16 * kMiB && found[0].kind == "lvm" && found[1].kind == "lvm",
     "linear and striped volumes, of the newest description of their group");
  // Two labels of four sectors, and the metadata areas that this test writes, on both disks.
  ok(one && one->located_by.size() == 4 && one->located_by[0].offset == kMiB && one->located_by[0].bytes == 2048 &&
         one->located_by[1].offset == kMiB + 4096 && one->located_by[2].offset == 64 * kMiB && found[0].located_by.empty(),
     "a write to a label or a metadata area may move a volume");
  ok(unread(volume(found, "vg0/elsewhere"), "pv2") && unread(volume(found, "vg0/mirror"), "raid1") && unread(volume(found, "vg0/origin"), "snapshot") && !volume(found, "vg0/mirror_0") && found.size() == 7,
     "volumes of another kind, or that reach to another disk, are said not to be known; parts of others are not told");
  bool fine = one && two;
  for (const FileSystem *each : {one, two}) {
    if (!fine) break;
    auto listing = list_files(*each, {});
    const std::string difference = differs("lvm.img", listing.value, each == one ? std::map<uint32_t, std::string>{{1, "/data"}, {2, "/holes"}} : std::map<uint32_t, std::string>{{3, "/other"}});
    if (!difference.empty() || !listing.ok()) printf("# %s %s\n", difference.c_str(), listing.status.message.c_str());
    fine = listing.ok() && difference.empty() && listing.value.problems == 0;
  }
  ok(fine, "files in volumes of several pieces and of stripes are where their data are on the device");

  put_physical_volume("lvm.img", kMiB, kFirst, group(5, linear + logical_volume("over", visible, 1, segment(1, 0, 1, striped("\"pv0\", 4", 1)))));
  const auto overlap = find("lvm.img");
  ok(!volume(overlap, "vg0/linear") && unread(volume(overlap, "vg0")), "a group whose volumes overlap has none");
  put_physical_volume("lvm.img", kMiB, kFirst, group(6, logical_volume("far", visible, 1, segment(1, 0, 9, striped("\"pv0\", 7", 1)))));
  ok(unread(volume(find("lvm.img"), "vg0/far")), "a volume that reaches behind its disk's end is not known");
  put_bytes("lvm.img", kMiB + 4096 + (1020 << 10) - 1000, "?");
  const auto older = find("lvm.img");
  ok(!volume(older, "vg0/far") && volume(older, "vg0/linear"), "a description whose checksum is wrong is none: the older one of another disk counts");
  put_physical_volume("lvm.img", 64 * kMiB, kFirst, group(7, logical_volume("twice", visible, 1, segment(1, 0, 1, striped("\"pv0\", 0", 1)))));
  ok(unread(volume(find("lvm.img"), "vg0/twice"), "pv0"), "a disk that is there twice is not known");
}

void texts() {
  const auto parsed = parse_lvm("a { b = 1 # { comment\n c = [\"x\", \"y \\\" z\"] d { e = -2.5 } f = [] } g = \"\"");
  const LvmSection *a = parsed.value.section("a");
  uint64_t number = 0;
  ok(parsed.ok() && a && a->number("b", number) && number == 1 && a->lists("c", "y \" z") && a->section("d") && !a->section("d")->number("e", number) && !a->lists("f", ""),
     "the text of a volume group: sections, numbers, strings, lists, comments");
  bool refused = true;
  for (const char *text : {"a {", "}", "a", "a =", "a = [1", "a = [1 2]", "a = \"x", "a = {", "= 1", "a#", "a{b{c{d{e{f{g{h{i{j{k{}}}}}}}}}}}"}) refused = refused && !parse_lvm(text).ok();
  ok(refused, "what is not such a text is refused");
}

}  // namespace

int main() {
  begin();
  shell("mkdir -p tree tree2");
  put_file("tree/data", 1, 2 * kMiB);
  put_file("tree/holes", 2, 4096, 8192, 12288, 4 * kMiB);
  put_file("tree2/other", 3, 3 * kMiB);
  partitions();
  whole_device();
  logical_volumes();
  texts();
  return finish();
}
