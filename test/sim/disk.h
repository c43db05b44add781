// Disk: the files of one host, as a page cache over a medium. What is written is in the cache, and on the medium only
// once an fdatasync or fsync that began after it has ended.
//
//   kill      the process is gone: the cache stays, and goes to the medium later or never
//   power     each change that is not synced is lost, kept, or kept in some of its sectors (512 bytes); which, is drawn
//             from the seed. A name is durable once its directory was synced; what is not is lost or kept, one by one.
//   a failed sync   some of what it covered is not on the medium, and nobody will write it there any more: the cache calls
//             it clean, and goes on to show it until it is dropped
//
// Simpler than life: directories themselves are durable at once; a sector is written whole or not at all.
#pragma once
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "fibers.h"

namespace sim {

constexpr uint64_t kPageBytes = 4096, kSectorBytes = 512;

// Bytes in pages; a page that is not there reads as zeroes and is a hole. Copies share pages until they change.
class Content {
 public:
  uint64_t size() const { return size_; }
  void read(void *data, uint64_t bytes, uint64_t offset) const;  // within size()
  void write(const void *data, uint64_t bytes, uint64_t offset);  // grows as needed
  void zero(uint64_t offset, uint64_t bytes);                    // whole pages become holes
  void resize(uint64_t bytes);
  bool is_hole(uint64_t offset) const { return !pages_[offset / kPageBytes]; }

 private:
  struct Page {
    uint8_t bytes[kPageBytes];
  };
  Page &page_for_writing(uint64_t index);
  uint64_t size_ = 0;
  std::vector<std::shared_ptr<Page>> pages_;
};

struct Change {
  enum class Kind : uint8_t { kWrite, kZero, kResize } kind;
  uint64_t offset, bytes;
  std::vector<uint8_t> data;
};

class File {
 public:
  const Content &content() const { return cached_; }
  void apply(Change change);
  // What an fdatasync that begins now will have to make durable, and that it has.
  uint64_t begin_sync() const { return first_ + pending_.size(); }
  void end_sync(uint64_t mark);
  std::vector<Change> fail_sync(uint64_t mark, Random &random);  // what was lost, or a part of it
  void drop_cache();       // what is clean is read from the medium again
  Content stored() const;  // what is read past the cache
  bool is_stale() const { return is_stale_; }
  void lose_power(Random &random);
  bool locked = false;

 private:
  static constexpr size_t kPendingMax = 512;  // beyond, the older half is written back
  static void carry_out(Content &content, const Change &change);
  void carry_out_some(const Change &change, Random &random);  // in some of its sectors, to the medium
  void widen(Change &change) const;
  Content cached_, durable_;
  bool is_stale_ = false;  // the cache shows what the medium has not got, and calls it clean
  std::deque<Change> pending_;
  uint64_t first_ = 0;  // number of pending_.front()
};

class Directory {
 public:
  std::shared_ptr<File> find(const std::string &name) const;
  void link(const std::string &name, std::shared_ptr<File> file);
  void unlink(const std::string &name);
  void rename(const std::string &from, const std::string &to);
  uint64_t begin_sync() const { return first_ + pending_.size(); }
  void end_sync(uint64_t mark);
  void lose_power(Random &random);
  const std::map<std::string, std::shared_ptr<File>> &names() const { return cached_; }

 private:
  struct Entry {  // `to` set: a rename. file null: `name` goes
    std::string name, to;
    std::shared_ptr<File> file;
  };
  using Names = std::map<std::string, std::shared_ptr<File>>;
  static void carry_out(Names &names, const Entry &entry);
  void add(Entry entry);
  Names cached_, durable_;
  std::deque<Entry> pending_;
  uint64_t first_ = 0;
};

class Disk {
 public:
  Directory *directory(const std::string &path);  // null: there is none
  bool make_directory(const std::string &path);   // false: it is there
  // The directory and the name in it; null: no such directory.
  std::pair<Directory *, std::string> split(const std::string &path);
  void lose_power(Random &random);

 private:
  std::map<std::string, Directory> directories_;
};

}  // namespace sim
