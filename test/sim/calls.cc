// The system calls of the simulated hosts: the linker finds these before the C library's, so that the native code runs
// as it is shipped, with its threads, locks, files and clocks simulated. What concerns neither a fiber nor a simulated
// file goes to the kernel.
//
// Files and descriptors here; threads and time in thread-calls.cc.
#include "sanitized.h"
#ifndef SIM_SANITIZED
#undef _FILE_OFFSET_BITS  // both names of each call are defined below
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstdlib>
#include <cstring>

#include "room.h"

using namespace sim;

namespace {

constexpr uint64_t kReadNs = 60'000, kWriteNs = 60'000, kNameNs = 30'000, kSyncNs = 1'500'000, kSlowSyncNs = 40'000'000;
enum Call : uint64_t { kOpen = 1, kPread, kPwrite, kSync, kResize, kZeroRange, kName, kSocketIo, kWait };

template <typename Function>
Function next_of(const char *name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

bool is_simulated(const char *path) { return scheduler && scheduler->current && strncmp(path, "/sim/", 5) == 0; }

int failed(int error) {
  errno = error;
  return -1;
}

Disk &disk() { return room->hosts[static_cast<size_t>(scheduler->current->host)].disk; }

std::string tidy(std::string path) {
  if (path.ends_with("/.")) path.resize(path.size() - 2);
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

std::shared_ptr<Handle> handle_of(int descriptor) {
  if (descriptor < kDescriptorFirst || !room) return nullptr;
  return room->find(descriptor);
}

Place place_of(const std::string &name) {
  if (name == "device") return Place::kDevice;
  if (name.starts_with("v.map")) return Place::kMap;
  if (name == "v.log") return Place::kSpill;
  if (name == "image.raw") return Place::kImage;
  if (name == "watermark") return Place::kWatermark;
  if (name.ends_with(".saved") || name.ends_with(".records")) return Place::kHistory;
  return name.ends_with(".seg") || name.ends_with(".old") ? Place::kSegments : Place::kNone;
}

// The error of a call on this file; 0: none.
int strikes(const Handle &handle, Strike strike) { return room->strikes(handle.host, handle.place, strike); }

int sync_file(Handle &handle) {
  const Host &host = room->hosts[static_cast<size_t>(handle.host)];
  const uint64_t mark = handle.directory ? handle.directory->begin_sync() : handle.file->begin_sync();
  const bool slow = scheduler->random.one_in(20);
  const auto file = handle.file;
  Directory *directory = handle.directory;
  const Place place = handle.place;
  const int number = handle.host;
  room->call(kSync, mark, (handle.is_slow ? host.slow : 1) * (slow ? kSlowSyncNs : kSyncNs));
  if (directory) {
    directory->end_sync(mark);
  } else if (const int error = room->strikes(number, place, Strike::kSync)) {
    room->lost(number, place, file->fail_sync(mark, scheduler->random));
    return error;
  } else {
    file->end_sync(mark);
  }
  return 0;
}

int open_file(const std::string &path, int flags) {
  room->call(kOpen, path.size(), kNameNs);
  auto handle = std::make_shared<Handle>(Handle{Handle::Kind::kFile, 0});
  if (Directory *directory = disk().directory(path)) {
    if ((flags & O_TMPFILE) == O_TMPFILE) {
      handle->file = std::make_shared<File>();
    } else {
      handle->kind = Handle::Kind::kDirectory;
      handle->directory = directory;
    }
    return room->open(std::move(handle));
  }
  auto [directory, name] = disk().split(path);
  if (!directory) return failed(ENOENT);
  handle->file = directory->find(name);
  if (!handle->file && !(flags & O_CREAT)) return failed(ENOENT);
  if (handle->file && (flags & O_CREAT) && (flags & O_EXCL)) return failed(EEXIST);
  handle->place = place_of(name);
  if (!handle->file) {
    if (const int error = room->strikes(scheduler->current->host, handle->place, Strike::kWrite)) return failed(error);
    handle->file = std::make_shared<File>();
    directory->link(name, handle->file);
  }
  if (flags & O_TRUNC) handle->file->apply({Change::Kind::kResize, 0, 0, {}});
  handle->is_slow = name == "device";
  return room->open(std::move(handle));
}

void describe(const File &file, struct stat *info) {
  memset(info, 0, sizeof *info);
  info->st_mode = S_IFREG | 0600;
  info->st_size = static_cast<off_t>(file.content().size());
}

}  // namespace

extern "C" {

int open(const char *path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = va_arg(arguments, mode_t);
  va_end(arguments);
  static const auto real = next_of<int (*)(const char *, int, ...)>("open");
  if (strncmp(path, "/proc/self/fd/", 14) == 0) {
    if (const auto handle = handle_of(atoi(path + 14))) {
      auto same = std::make_shared<Handle>(Handle{Handle::Kind::kFile, 0});
      same->file = handle->file;
      same->place = handle->place;
      same->is_direct = (flags & O_DIRECT) != 0;
      return room->open(std::move(same));
    }
  }
  return is_simulated(path) ? open_file(tidy(path), flags) : real(path, flags, mode);
}

int close(int descriptor) {
  static const auto real = next_of<int (*)(int)>("close");
  if (descriptor < kDescriptorFirst) return real(descriptor);
  room->close(descriptor);
  return 0;
}

ssize_t pread(int descriptor, void *data, size_t bytes, off_t offset) {
  static const auto real = next_of<ssize_t (*)(int, void *, size_t, off_t)>("pread");
  const auto handle = handle_of(descriptor);
  if (!handle) return real(descriptor, data, bytes, offset);
  room->call(kPread, static_cast<uint64_t>(offset), kReadNs);
  if (const int error = strikes(*handle, Strike::kRead)) return failed(error);
  const bool passes_cache = handle->is_direct && handle->file->is_stale();
  const Content stored = passes_cache ? handle->file->stored() : Content{};
  const Content &content = passes_cache ? stored : handle->file->content();
  const auto at = static_cast<uint64_t>(offset);
  if (at >= content.size()) return 0;
  bytes = std::min<uint64_t>(bytes, content.size() - at);
  content.read(data, bytes, at);
  return static_cast<ssize_t>(bytes);
}

ssize_t preadv2(int descriptor, const iovec *vector, int count, off_t offset, int flags) {
  const auto handle = handle_of(descriptor);
  if (!handle) return failed(ENOSYS);
  (void)count, (void)flags;
  if (scheduler->random.one_in(3)) return failed(EAGAIN);  // it is not cached
  const Content &content = handle->file->content();
  const auto at = static_cast<uint64_t>(offset);
  const uint64_t bytes = at >= content.size() ? 0 : std::min<uint64_t>(vector->iov_len, content.size() - at);
  content.read(vector->iov_base, bytes, at);
  return static_cast<ssize_t>(bytes);
}

ssize_t pwrite(int descriptor, const void *data, size_t bytes, off_t offset) {
  static const auto real = next_of<ssize_t (*)(int, const void *, size_t, off_t)>("pwrite");
  const auto handle = handle_of(descriptor);
  if (!handle) return real(descriptor, data, bytes, offset);
  room->call(kPwrite, static_cast<uint64_t>(offset) << 16 ^ bytes, kWriteNs);
  if (const int error = strikes(*handle, Strike::kWrite)) return failed(error);
  if (bytes > 4096 && scheduler->random.one_in(16)) bytes -= scheduler->random.between(1, bytes / 1024) * 512;
  const auto *from = static_cast<const uint8_t *>(data);
  handle->file->apply({Change::Kind::kWrite, static_cast<uint64_t>(offset), bytes, {from, from + bytes}});
  return static_cast<ssize_t>(bytes);
}

int fdatasync(int descriptor) {
  static const auto real = next_of<int (*)(int)>("fdatasync");
  const auto handle = handle_of(descriptor);
  if (!handle) return real(descriptor);
  const int error = sync_file(*handle);
  return error ? failed(error) : 0;
}

int fsync(int descriptor) { return fdatasync(descriptor); }

int ftruncate(int descriptor, off_t bytes) {
  static const auto real = next_of<int (*)(int, off_t)>("ftruncate");
  const auto handle = handle_of(descriptor);
  if (!handle) return real(descriptor, bytes);
  room->call(kResize, static_cast<uint64_t>(bytes), kNameNs);
  handle->file->apply({Change::Kind::kResize, 0, static_cast<uint64_t>(bytes), {}});
  return 0;
}

int fallocate(int descriptor, int mode, off_t offset, off_t bytes) {
  const auto handle = handle_of(descriptor);
  if (!handle) return failed(EBADF);
  room->call(kZeroRange, static_cast<uint64_t>(offset), kNameNs);
  if (const int error = strikes(*handle, Strike::kWrite)) return failed(error);
  const auto start = static_cast<uint64_t>(offset), length = static_cast<uint64_t>(bytes);
  if (mode & FALLOC_FL_PUNCH_HOLE) {
    handle->file->apply({Change::Kind::kZero, start, length, {}});
  } else if (mode & FALLOC_FL_ZERO_RANGE) {
    handle->file->apply({Change::Kind::kZero, start, length, {}});
  } else if (!(mode & FALLOC_FL_KEEP_SIZE) && start + length > handle->file->content().size()) {
    handle->file->apply({Change::Kind::kResize, 0, start + length, {}});
  }
  return 0;
}

off_t lseek(int descriptor, off_t offset, int whence) {
  static const auto real = next_of<off_t (*)(int, off_t, int)>("lseek");
  const auto handle = handle_of(descriptor);
  if (!handle) return real(descriptor, offset, whence);
  const Content &content = handle->file->content();
  auto at = static_cast<uint64_t>(offset);
  if (at >= content.size()) return failed(ENXIO);
  const bool wants_hole = whence == SEEK_HOLE;
  while (at < content.size() && content.is_hole(at) != wants_hole) at = (at / kPageBytes + 1) * kPageBytes;
  if (at >= content.size() && !wants_hole) return failed(ENXIO);
  return static_cast<off_t>(std::min(at, content.size()));
}

int posix_fadvise(int descriptor, off_t offset, off_t bytes, int advice) {
  static const auto real = next_of<int (*)(int, off_t, off_t, int)>("posix_fadvise");
  const auto handle = handle_of(descriptor);
  if (!handle) return real(descriptor, offset, bytes, advice);
  if (advice == POSIX_FADV_DONTNEED) handle->file->drop_cache();  // all of it: less to be relied on
  return 0;
}

int sync_file_range(int descriptor, off_t, off_t, unsigned) { return handle_of(descriptor) ? 0 : failed(EBADF); }

int fstat(int descriptor, struct stat *info) {
  static const auto real = next_of<int (*)(int, struct stat *)>("fstat");
  const auto handle = handle_of(descriptor);
  if (!handle) return real(descriptor, info);
  describe(*handle->file, info);
  return 0;
}

int stat(const char *path, struct stat *info) {
  static const auto real = next_of<int (*)(const char *, struct stat *)>("stat");
  if (!is_simulated(path)) return real(path, info);
  const auto [directory, name] = disk().split(tidy(path));
  const auto file = directory ? directory->find(name) : nullptr;
  if (!file) return failed(ENOENT);
  describe(*file, info);
  return 0;
}

int fcntl(int descriptor, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  void *argument = va_arg(arguments, void *);
  va_end(arguments);
  static const auto real = next_of<int (*)(int, int, ...)>("fcntl");
  const auto handle = handle_of(descriptor);
  if (!handle) return real(descriptor, command, argument);
  if (command != F_OFD_SETLK) return 0;
  const bool unlocks = static_cast<const struct flock *>(argument)->l_type == F_UNLCK;
  return flock(descriptor, unlocks ? LOCK_UN : LOCK_EX | LOCK_NB);
}

int flock(int descriptor, int operation) {
  static const auto real = next_of<int (*)(int, int)>("flock");
  const auto handle = handle_of(descriptor);
  if (!handle) return real(descriptor, operation);
  if (operation == LOCK_UN) {
    if (handle->holds_lock) handle->holds_lock = handle->file->locked = false;
    return 0;
  }
  if (handle->file->locked && !handle->holds_lock) return failed(EAGAIN);
  handle->file->locked = handle->holds_lock = true;
  return 0;
}

int fchmod(int descriptor, mode_t mode) {
  static const auto real = next_of<int (*)(int, mode_t)>("fchmod");
  return handle_of(descriptor) ? 0 : real(descriptor, mode);
}

int unlink(const char *path) {
  static const auto real = next_of<int (*)(const char *)>("unlink");
  if (!is_simulated(path)) return real(path);
  room->call(kName, strlen(path), kNameNs);
  const auto [directory, name] = disk().split(tidy(path));
  if (!directory || !directory->find(name)) return failed(ENOENT);
  directory->unlink(name);
  return 0;
}

int rename(const char *from, const char *to) {
  static const auto real = next_of<int (*)(const char *, const char *)>("rename");
  if (!is_simulated(from)) return real(from, to);
  room->call(kName, strlen(from), kNameNs);
  const auto [directory, name] = disk().split(tidy(from));
  if (!directory || !directory->find(name)) return failed(ENOENT);
  directory->rename(name, disk().split(tidy(to)).second);
  return 0;
}

int mkdir(const char *path, mode_t mode) {
  static const auto real = next_of<int (*)(const char *, mode_t)>("mkdir");
  if (!is_simulated(path)) return real(path, mode);
  return disk().make_directory(tidy(path)) ? 0 : failed(EEXIST);
}

// ---- listings

struct Listing {
  std::vector<std::string> names;
  size_t at = 0;
  dirent entry;
};

DIR *opendir(const char *path) {
  static const auto real = next_of<DIR *(*)(const char *)>("opendir");
  if (!is_simulated(path)) return real(path);
  room->call(kName, strlen(path), kNameNs);
  Directory *directory = disk().directory(tidy(path));
  if (!directory) {
    errno = ENOENT;
    return nullptr;
  }
  auto *listing = new Listing;
  for (const auto &[name, file] : directory->names()) listing->names.push_back(name);
  return reinterpret_cast<DIR *>(listing);
}

dirent *readdir(DIR *opened) {
  static const auto real = next_of<dirent *(*)(DIR *)>("readdir");
  if (!scheduler || !scheduler->current) return real(opened);
  auto *listing = reinterpret_cast<Listing *>(opened);
  if (listing->at == listing->names.size()) return nullptr;
  strncpy(listing->entry.d_name, listing->names[listing->at++].c_str(), sizeof listing->entry.d_name - 1);
  return &listing->entry;
}

int closedir(DIR *opened) {
  static const auto real = next_of<int (*)(DIR *)>("closedir");
  if (!scheduler || !scheduler->current) return real(opened);
  delete reinterpret_cast<Listing *>(opened);
  return 0;
}

// ---- events, sockets, waiting

int eventfd(unsigned count, int flags) {
  static const auto real = next_of<int (*)(unsigned, int)>("eventfd");
  if (!scheduler || !scheduler->current) return real(count, flags);
  return room->open(std::make_shared<Handle>(Handle{Handle::Kind::kEvent, 0}));
}

ssize_t read(int descriptor, void *data, size_t bytes) {
  static const auto real = next_of<ssize_t (*)(int, void *, size_t)>("read");
  const auto handle = handle_of(descriptor);
  if (!handle) return real(descriptor, data, bytes);
  if (!handle->count) return failed(EAGAIN);
  memcpy(data, &handle->count, sizeof handle->count);
  handle->count = 0;
  return sizeof handle->count;
}

ssize_t write(int descriptor, const void *data, size_t bytes) {
  static const auto real = next_of<ssize_t (*)(int, const void *, size_t)>("write");
  const auto handle = handle_of(descriptor);
  if (!handle) return real(descriptor, data, bytes);
  uint64_t more;
  memcpy(&more, data, sizeof more);
  handle->count += more;
  handle->changed(EPOLLIN);
  return sizeof more;
}

ssize_t recv(int descriptor, void *data, size_t bytes, int flags) {
  const auto handle = handle_of(descriptor);
  if (!handle) return failed(EBADF);
  while (handle->arrived.empty()) {
    if (handle->peer_closed) return 0;
    if (flags & MSG_DONTWAIT) return failed(EAGAIN);
    scheduler->block_on(handle->watchers, kNever);
  }
  const auto part = static_cast<ptrdiff_t>(std::min(bytes, handle->arrived.size()));
  std::copy(handle->arrived.begin(), handle->arrived.begin() + part, static_cast<uint8_t *>(data));
  handle->arrived.erase(handle->arrived.begin(), handle->arrived.begin() + part);
  if (const auto other = handle->peer.lock()) other->changed(EPOLLOUT);
  return part;
}

ssize_t send(int descriptor, const void *data, size_t bytes, int flags) {
  const auto handle = handle_of(descriptor);
  if (!handle) return failed(EBADF);
  room->call(kSocketIo, bytes, 0);
  auto other = handle->peer.lock();
  if (!other || handle->peer_closed) return failed(EPIPE);
  while (other->arrived.size() >= kSocketBytes) {
    if (flags & MSG_DONTWAIT) return failed(EAGAIN);
    scheduler->block_on(handle->watchers, kNever);
    if (handle->peer_closed) return failed(EPIPE);
  }
  bytes = std::min(bytes, kSocketBytes - other->arrived.size());
  const auto *from = static_cast<const uint8_t *>(data);
  other->arrived.insert(other->arrived.end(), from, from + bytes);
  other->changed(EPOLLIN);
  return static_cast<ssize_t>(bytes);
}

int poll(pollfd *descriptors, nfds_t count, int timeout_ms) {
  static const auto real = next_of<int (*)(pollfd *, nfds_t, int)>("poll");
  if (!scheduler || !scheduler->current) return real(descriptors, count, timeout_ms);
  const timespec limit{timeout_ms / 1000, timeout_ms % 1000 * 1'000'000};
  return ppoll(descriptors, count, timeout_ms < 0 ? nullptr : &limit, nullptr);
}

int ppoll(pollfd *descriptors, nfds_t count, const timespec *limit, const sigset_t *) {
  const uint64_t deadline =
      limit ? scheduler->now_ns + static_cast<uint64_t>(limit->tv_sec) * 1'000'000'000 + static_cast<uint64_t>(limit->tv_nsec)
            : kNever;
  for (bool is_over = false;;) {
    int ready = 0;
    for (nfds_t i = 0; i < count; i++) {
      const auto handle = handle_of(descriptors[i].fd);
      descriptors[i].revents = static_cast<short>(handle ? handle->ready() & static_cast<unsigned>(descriptors[i].events) : 0);
      if (descriptors[i].revents) ready++;
    }
    if (ready || is_over) return ready;
    // Everything here waits for one descriptor.
    const auto handle = handle_of(descriptors[0].fd);
    is_over = !scheduler->block_on(handle->watchers, deadline);
  }
}

int epoll_create1(int) { return room->open(std::make_shared<Handle>(Handle{Handle::Kind::kEpoll, 0})); }

int epoll_ctl(int descriptor, int operation, int target, epoll_event *event) {
  const auto epoll = handle_of(descriptor), handle = handle_of(target);
  if (!epoll || !handle) return failed(EBADF);
  if (operation == EPOLL_CTL_DEL) {
    epoll->watched.erase(target);
    return 0;
  }
  if (operation == EPOLL_CTL_ADD) handle->epolls.push_back(epoll);
  Handle::Watched &watched = epoll->watched[target];
  watched.handle = handle;
  watched.events = event->events;
  watched.data = event->data;
  watched.pending = handle->ready() & (event->events | EPOLLHUP);
  if (watched.pending) epoll->watchers.wake_all();
  return 0;
}

int epoll_wait(int descriptor, epoll_event *events, int most, int timeout_ms) {
  const auto epoll = handle_of(descriptor);
  const uint64_t deadline = timeout_ms < 0 ? kNever : scheduler->now_ns + static_cast<uint64_t>(timeout_ms) * 1'000'000;
  for (bool is_over = timeout_ms == 0;;) {
    int count = 0;
    for (auto &[target, watched] : epoll->watched) {
      const auto handle = watched.handle.lock();
      if (!handle || count == most) continue;
      uint32_t found = watched.pending;
      if (!(watched.events & EPOLLET)) found = handle->ready() & (watched.events | EPOLLHUP);
      if (!found) continue;
      watched.pending = 0;
      events[count].events = found;
      events[count++].data = watched.data;
    }
    if (count || is_over) return count;
    is_over = !scheduler->block_on(epoll->watchers, deadline);
  }
}

// The same, as they are called where files have 64-bit offsets by definition: on x86-64 there is no difference.
int open64(const char *, int, ...) __attribute__((alias("open")));
ssize_t pread64(int, void *, size_t, off_t) __attribute__((alias("pread")));
ssize_t pwrite64(int, const void *, size_t, off_t) __attribute__((alias("pwrite")));
ssize_t preadv64v2(int, const iovec *, int, off_t, int) __attribute__((alias("preadv2")));
int ftruncate64(int, off_t) __attribute__((alias("ftruncate")));
int fallocate64(int, int, off_t, off_t) __attribute__((alias("fallocate")));
off_t lseek64(int, off_t, int) __attribute__((alias("lseek")));
int posix_fadvise64(int, off_t, off_t, int) __attribute__((alias("posix_fadvise")));
int fstat64(int, struct stat64 *) __attribute__((alias("fstat")));
int stat64(const char *, struct stat64 *) __attribute__((alias("stat")));
int fcntl64(int, int, ...) __attribute__((alias("fcntl")));
dirent64 *readdir64(DIR *) __attribute__((alias("readdir")));

}  // extern "C"

#endif  // SIM_SANITIZED
