#include "disk.h"

#include <algorithm>
#include <cstring>
#include <set>

namespace sim {

void Content::resize(uint64_t bytes) {
  if (bytes < size_ && bytes % kPageBytes && pages_[bytes / kPageBytes]) {
    Page &last = page_for_writing(bytes / kPageBytes);
    memset(last.bytes + bytes % kPageBytes, 0, kPageBytes - bytes % kPageBytes);
  }
  size_ = bytes;
  pages_.resize((bytes + kPageBytes - 1) / kPageBytes);
}

Content::Page &Content::page_for_writing(uint64_t index) {
  auto &page = pages_[index];
  if (!page) page = std::make_shared<Page>();
  else if (page.use_count() > 1) page = std::make_shared<Page>(*page);
  return *page;
}

void Content::read(void *data, uint64_t bytes, uint64_t offset) const {
  auto *to = static_cast<uint8_t *>(data);
  while (bytes) {
    const uint64_t in_page = offset % kPageBytes, part = std::min(bytes, kPageBytes - in_page);
    if (const auto &page = pages_[offset / kPageBytes]) memcpy(to, page->bytes + in_page, part);
    else memset(to, 0, part);
    to += part, offset += part, bytes -= part;
  }
}

void Content::write(const void *data, uint64_t bytes, uint64_t offset) {
  if (offset + bytes > size_) resize(offset + bytes);
  auto *from = static_cast<const uint8_t *>(data);
  while (bytes) {
    const uint64_t in_page = offset % kPageBytes, part = std::min(bytes, kPageBytes - in_page);
    memcpy(page_for_writing(offset / kPageBytes).bytes + in_page, from, part);
    from += part, offset += part, bytes -= part;
  }
}

void Content::zero(uint64_t offset, uint64_t bytes) {
  bytes = std::min(bytes, offset < size_ ? size_ - offset : 0);
  while (bytes) {
    const uint64_t in_page = offset % kPageBytes, part = std::min(bytes, kPageBytes - in_page);
    auto &page = pages_[offset / kPageBytes];
    if (part == kPageBytes) page.reset();
    else if (page) memset(page_for_writing(offset / kPageBytes).bytes + in_page, 0, part);
    offset += part, bytes -= part;
  }
}

// ---- files

void File::carry_out(Content &content, const Change &change) {
  switch (change.kind) {
    case Change::Kind::kWrite: return content.write(change.data.data(), change.bytes, change.offset);
    case Change::Kind::kZero: return content.zero(change.offset, change.bytes);
    case Change::Kind::kResize: return content.resize(change.bytes);
  }
}

void File::apply(Change change) {
  carry_out(cached_, change);
  if (is_stale_) widen(change);
  pending_.push_back(std::move(change));
  if (pending_.size() > kPendingMax) end_sync(first_ + kPendingMax / 2);
}

void File::end_sync(uint64_t mark) {
  for (; first_ < mark && !pending_.empty(); first_++) {
    carry_out(durable_, pending_.front());
    pending_.pop_front();
  }
}

// A page is written out as a whole, with whatever else the cache has in it.
void File::widen(Change &change) const {
  if (change.kind != Change::Kind::kWrite) return;
  const uint64_t end = change.offset + change.bytes;
  change.offset = change.offset / kPageBytes * kPageBytes;
  change.bytes = std::min((end + kPageBytes - 1) / kPageBytes * kPageBytes, cached_.size()) - change.offset;
  change.data.resize(change.bytes);
  cached_.read(change.data.data(), change.bytes, change.offset);
}

std::vector<Change> File::fail_sync(uint64_t mark, Random &random) {
  std::vector<Change> lost;
  for (; first_ < mark && !pending_.empty(); first_++) {
    Change &change = pending_.front();
    if (change.kind != Change::Kind::kWrite || random.one_in(4)) {  // holes and sizes are the journal's
      carry_out(durable_, change);
    } else {
      if (random.one_in(4)) carry_out_some(change, random);
      lost.push_back(std::move(change));
    }
    pending_.pop_front();
  }
  is_stale_ |= !lost.empty();
  return lost;
}

Content File::stored() const {
  if (!is_stale_) return cached_;
  Content content = durable_;
  for (const Change &change : pending_) carry_out(content, change);
  return content;
}

void File::drop_cache() {
  if (!is_stale_) return;
  cached_ = stored();
  is_stale_ = false;
}

void File::carry_out_some(const Change &change, Random &random) {
  for (uint64_t at = change.offset; at < change.offset + change.bytes;) {
    const uint64_t end = std::min(change.offset + change.bytes, (at / kSectorBytes + 1) * kSectorBytes);
    Change part{change.kind, at, end - at, {}};
    if (change.kind == Change::Kind::kWrite)
      part.data.assign(change.data.begin() + static_cast<ptrdiff_t>(at - change.offset),
                       change.data.begin() + static_cast<ptrdiff_t>(end - change.offset));
    if (random.one_in(2)) carry_out(durable_, part);
    at = end;
  }
}

void File::lose_power(Random &random) {
  enum { kNone, kAll, kFirst, kSome, kTorn };
  const uint64_t how = random.below(5);
  const uint64_t first = random.below(pending_.size() + 1);
  uint64_t number = 0;
  for (const Change &change : pending_) {
    const bool kept = how == kAll || (how == kFirst && number < first) || (how == kSome && random.one_in(2));
    number++;
    if (kept) carry_out(durable_, change);
    if (how != kTorn) continue;
    if (change.kind != Change::Kind::kResize) carry_out_some(change, random);
    else if (random.one_in(2)) carry_out(durable_, change);
  }
  first_ += pending_.size();
  pending_.clear();
  cached_ = durable_;
  is_stale_ = false;
  locked = false;
}

// ---- names

std::shared_ptr<File> Directory::find(const std::string &name) const {
  const auto found = cached_.find(name);
  return found == cached_.end() ? nullptr : found->second;
}

void Directory::carry_out(Names &names, const Entry &entry) {
  if (!entry.to.empty()) {
    names[entry.to] = entry.file;
    const auto old = names.find(entry.name);
    if (old != names.end() && old->second == entry.file) names.erase(old);
  } else if (entry.file) {
    names[entry.name] = entry.file;
  } else {
    names.erase(entry.name);
  }
}

void Directory::add(Entry entry) {
  carry_out(cached_, entry);
  pending_.push_back(std::move(entry));
}

void Directory::link(const std::string &name, std::shared_ptr<File> file) { add({name, "", std::move(file)}); }
void Directory::unlink(const std::string &name) { add({name, "", nullptr}); }
void Directory::rename(const std::string &from, const std::string &to) { add({from, to, cached_[from]}); }

void Directory::end_sync(uint64_t mark) {
  for (; first_ < mark && !pending_.empty(); first_++) {
    carry_out(durable_, pending_.front());
    pending_.pop_front();
  }
}

void Directory::lose_power(Random &random) {
  std::set<File *> seen;
  for (auto *names : {&cached_, &durable_})
    for (auto &[name, file] : *names)
      if (seen.insert(file.get()).second) file->lose_power(random);
  const uint64_t how = random.below(3);
  const uint64_t first = random.below(pending_.size() + 1);
  uint64_t number = 0;
  for (const Entry &entry : pending_)
    if (how == 0 || (how == 1 ? number++ < first : random.one_in(2))) carry_out(durable_, entry);
  first_ += pending_.size();
  pending_.clear();
  cached_ = durable_;
}

Directory *Disk::directory(const std::string &path) {
  const auto found = directories_.find(path);
  return found == directories_.end() ? nullptr : &found->second;
}

bool Disk::make_directory(const std::string &path) { return directories_.try_emplace(path).second; }

std::pair<Directory *, std::string> Disk::split(const std::string &path) {
  const size_t slash = path.rfind('/');
  std::string folder = path.substr(0, slash);
  return {directory(folder), path.substr(slash + 1)};
}

void Disk::lose_power(Random &random) {
  for (auto &[path, directory] : directories_) directory.lose_power(random);
}

}  // namespace sim
