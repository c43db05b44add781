// An LD_PRELOAD for daemons under test: a disk with a volatile cache. kill -9 leaves the page cache in place, a power
// cut does not; this layer remembers what was not synced yet, so that power-loss.ts can take it back afterwards.
//
//   POWER_SHIM_ROOT      the host's disk: files below it are watched. Links to them are kept in ROOT/.power
//   POWER_SHIM_JOURNAL   a directory for the memory of what a power cut takes back; may be on another file system
//   POWER_SHIM_BOOT      what the kernel's boot_id is read from: a host that lost its power has booted since
//   POWER_SHIM_LIE       a file; while it exists fdatasync and fsync say 0 and do nothing: the disk that lies
//
// Contents. Before bytes of a file change, the old ones go to JOURNAL/DEV-INO.GENERATION, as entries of
//   | magic, kind, offset, length of the change, size of the file before, bytes kept | the old bytes |
// A sync opens a new generation, and removes the older ones when it has succeeded: what was written before it began is
// safe. A process that dies by SIGKILL leaves its journal as it is; its successor's syncs cover it, as the kernel's do.
//
// Names. A file that appears, is renamed or removed writes JOURNAL/TIME.op ("create", "rename" or "unlink", paths, and
// the link under which a replaced or removed file is kept); an fsync of the directory removes those of before it.
// power-loss.ts lets some of the newest names and contents go, in any combination a journaling file system may leave.
//
// Not here: mmap, O_DSYNC and RWF_DSYNC (nothing under test uses them), contents of directories made or removed.
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ({ static __typeof__(&name) found; if (!found) found = (__typeof__(&name))real_symbol(#name); found; })
static void *real_symbol(const char *name) {
  void *found = dlsym(RTLD_NEXT, name);
  if (!found) abort();
  return found;
}

struct entry {
  uint64_t magic, kind, offset, length, size_before, kept;
};
#define ENTRY_MAGIC 0x31305257504b5355ull
enum { KIND_WRITE = 1, KIND_SIZE = 2 };

struct file {
  dev_t device;
  ino_t inode;
  int watched;
  int journal;          // descriptor of the current generation, -1: not open yet
  unsigned generation;  // the current one
  unsigned oldest;      // the oldest that may exist
  pthread_mutex_t lock;  // of the fields above, and around "keep the old bytes, change them"
  struct file *next;
};

#define BUCKETS 1024
static struct file *files[BUCKETS];
static pthread_mutex_t files_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t names_lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX], journal[PATH_MAX];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void prepare(void) {
  const char *wanted = getenv("POWER_SHIM_ROOT"), *memory = getenv("POWER_SHIM_JOURNAL");
  char links[PATH_MAX + 8];
  if (!wanted || !memory || !realpath(wanted, root) || !realpath(memory, journal)) return;
  snprintf(links, sizeof links, "%s/.power", root);
  (void)mkdir(links, 0700);
}

static int below_root(const char *path) {
  size_t length = strlen(root);
  return length && strncmp(path, root, length) == 0 && path[length] == '/' && strncmp(path + length, "/.power/", 8) != 0;
}

static int lies(void) {
  const char *path = getenv("POWER_SHIM_LIE");
  return path && access(path, F_OK) == 0;
}

static uint64_t now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

// ---- contents ----

static void journal_path(char *out, const struct file *file, unsigned generation) {
  snprintf(out, PATH_MAX, "%s/%lu-%lu.%u", journal, (unsigned long)file->device, (unsigned long)file->inode, generation);
}

// Goes on behind what an earlier process left; or another one, which had the file open since this one did.
static void find_generations(struct file *file) {
  char prefix[64];
  int length = snprintf(prefix, sizeof prefix, "%lu-%lu.", (unsigned long)file->device, (unsigned long)file->inode);
  unsigned oldest = UINT_MAX, newest = 0;
  DIR *directory = opendir(journal);
  for (struct dirent *one; directory && (one = readdir(directory));) {
    if (strncmp(one->d_name, prefix, (size_t)length) != 0) continue;
    unsigned generation = (unsigned)strtoul(one->d_name + length, NULL, 10);
    if (generation < oldest) oldest = generation;
    if (generation > newest) newest = generation;
  }
  if (directory) closedir(directory);
  if (file->generation && newest <= file->generation) return;
  if (file->journal >= 0) syscall(SYS_close, file->journal);
  file->journal = -1;
  file->generation = newest + 1;
  file->oldest = oldest == UINT_MAX ? newest + 1 : oldest;
}

static int judge_watched(int fd, const struct stat *info) {
  char link_name[64], path[PATH_MAX], kept[PATH_MAX + 64];
  snprintf(link_name, sizeof link_name, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link_name, path, sizeof path - 1);
  if (length <= 0) return 0;
  path[length] = 0;
  if (!below_root(path) || info->st_nlink == 0) return 0;
  snprintf(kept, sizeof kept, "%s/.power/%lu-%lu", root, (unsigned long)info->st_dev, (unsigned long)info->st_ino);
  return linkat(AT_FDCWD, path, AT_FDCWD, kept, 0) == 0 || errno == EEXIST;
}

// NULL: not a file that is watched.
static struct file *look_up(int fd, int afresh) {
  int saved = errno;
  pthread_once(&once, prepare);
  struct stat info;
  struct file *file = NULL;
  if (!root[0] || fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) goto out;
  struct file **bucket = &files[(info.st_ino ^ info.st_dev) % BUCKETS];
  pthread_mutex_lock(&files_lock);
  for (file = *bucket; file && (file->device != info.st_dev || file->inode != info.st_ino);) file = file->next;
  if (!file) {
    file = calloc(1, sizeof *file);
    file->device = info.st_dev, file->inode = info.st_ino, file->journal = -1;
    pthread_mutex_init(&file->lock, NULL);
    file->next = *bucket;
    *bucket = file;
    afresh = 1;
  }
  if (afresh && !file->watched) file->watched = judge_watched(fd, &info);
  if (afresh && file->watched) {
    pthread_mutex_lock(&file->lock);
    find_generations(file);
    pthread_mutex_unlock(&file->lock);
  }
  pthread_mutex_unlock(&files_lock);
  if (!file->watched) file = NULL;
out:
  errno = saved;
  return file;
}

static void append(struct file *file, struct entry *entry, const void *kept) {
  if (file->journal < 0) {
    char path[PATH_MAX];
    journal_path(path, file, file->generation);
    file->journal = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (file->journal < 0) abort();
  }
  struct iovec parts[2] = {{entry, sizeof *entry}, {(void *)kept, entry->kept}};
  ssize_t wanted = (ssize_t)(sizeof *entry + entry->kept);
  if (syscall(SYS_writev, file->journal, parts, 2) != wanted) abort();  // the test has no room for its own memory
}

static void keep_bytes(struct file *file, int fd, uint64_t offset, uint64_t length, uint64_t size) {
  enum { kBufferBytes = 1 << 20 };
  static __thread char *buffer;  // by pointer: thread-local memory of that size leaves no room for small stacks
  if (!buffer && !(buffer = malloc(kBufferBytes))) abort();
  char link_name[64];
  snprintf(link_name, sizeof link_name, "/proc/self/fd/%d", fd);
  // The descriptor may be write-only: read through one of our own.
  int reader = (int)syscall(SYS_openat, AT_FDCWD, link_name, O_RDONLY | O_CLOEXEC);
  if (reader < 0) abort();
  do {
    uint64_t part = length < kBufferBytes ? length : kBufferBytes;
    uint64_t there = offset >= size ? 0 : size - offset < part ? size - offset : part;
    struct entry entry = {ENTRY_MAGIC, KIND_WRITE, offset, part, size, there};
    if (there && syscall(SYS_pread64, reader, buffer, there, offset) != (long)there) abort();
    append(file, &entry, buffer);
    offset += part, length -= part;
  } while (length);
  syscall(SYS_close, reader);
}

// A hole is kept by keeping nothing of it: whatever is taken back around it, it reads as zeroes either way.
static void keep_data_only(struct file *file, int fd, uint64_t offset, uint64_t length, uint64_t size) {
  uint64_t end = offset + length < size ? offset + length : size;
  off_t position = lseek(fd, 0, SEEK_CUR);
  while (offset < end) {
    off_t data = lseek(fd, (off_t)offset, SEEK_DATA);
    if (data < 0 || (uint64_t)data >= end) break;
    off_t hole = lseek(fd, data, SEEK_HOLE);
    uint64_t stop = hole > 0 && (uint64_t)hole < end ? (uint64_t)hole : end;
    keep_bytes(file, fd, (uint64_t)data, stop - (uint64_t)data, size);
    offset = stop;
  }
  lseek(fd, position, SEEK_SET);
}

static void keep_size(struct file *file, uint64_t size) {
  struct entry entry = {ENTRY_MAGIC, KIND_SIZE, 0, 0, size, 0};
  append(file, &entry, NULL);
}

static uint64_t size_of(int fd) {
  struct stat info;
  return fstat(fd, &info) == 0 ? (uint64_t)info.st_size : 0;
}

#define WITH_OLD_BYTES(type, fd, offset, length, call)          \
  struct file *file = look_up(fd, 0);                           \
  if (!file) return call;                                       \
  pthread_mutex_lock(&file->lock);                              \
  keep_bytes(file, fd, (uint64_t)(offset), (length), size_of(fd)); \
  type result = call;                                           \
  int saved = errno;                                            \
  pthread_mutex_unlock(&file->lock);                            \
  errno = saved;                                                \
  return result

ssize_t pwrite(int fd, const void *data, size_t bytes, off_t offset) {
  WITH_OLD_BYTES(ssize_t, fd, offset, bytes, REAL(pwrite)(fd, data, bytes, offset));
}
ssize_t pwrite64(int fd, const void *data, size_t bytes, off64_t offset) __attribute__((alias("pwrite")));

static size_t total(const struct iovec *parts, int count) {
  size_t bytes = 0;
  for (int i = 0; i < count; i++) bytes += parts[i].iov_len;
  return bytes;
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
  WITH_OLD_BYTES(ssize_t, fd, offset, total(parts, count), REAL(pwritev)(fd, parts, count, offset));
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) __attribute__((alias("pwritev")));

static off_t position_of(int fd) {
  int flags = fcntl(fd, F_GETFL);
  return flags & O_APPEND ? (off_t)size_of(fd) : lseek(fd, 0, SEEK_CUR);
}
ssize_t write(int fd, const void *data, size_t bytes) {
  WITH_OLD_BYTES(ssize_t, fd, position_of(fd), bytes, REAL(write)(fd, data, bytes));
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
  WITH_OLD_BYTES(ssize_t, fd, position_of(fd), total(parts, count), REAL(writev)(fd, parts, count));
}

int fallocate(int fd, int mode, off_t offset, off_t length) {
  struct file *file = look_up(fd, 0);
  if (!file) return REAL(fallocate)(fd, mode, offset, length);
  pthread_mutex_lock(&file->lock);
  uint64_t size = size_of(fd);
  if (mode & ~FALLOC_FL_KEEP_SIZE) keep_data_only(file, fd, (uint64_t)offset, (uint64_t)length, size);
  if (!(mode & FALLOC_FL_KEEP_SIZE)) keep_size(file, size);
  int result = REAL(fallocate)(fd, mode, offset, length);
  int saved = errno;
  pthread_mutex_unlock(&file->lock);
  errno = saved;
  return result;
}
int fallocate64(int fd, int mode, off64_t offset, off64_t length) __attribute__((alias("fallocate")));

int ftruncate(int fd, off_t length) {
  struct file *file = look_up(fd, 0);
  if (!file) return REAL(ftruncate)(fd, length);
  pthread_mutex_lock(&file->lock);
  uint64_t size = size_of(fd);
  if ((uint64_t)length < size) keep_data_only(file, fd, (uint64_t)length, size - (uint64_t)length, size);
  keep_size(file, size);
  int result = REAL(ftruncate)(fd, length);
  int saved = errno;
  pthread_mutex_unlock(&file->lock);
  errno = saved;
  return result;
}
int ftruncate64(int fd, off64_t length) __attribute__((alias("ftruncate")));

// ---- names ----

// JOURNAL/TIME.op: kind, directory, path, second path, where the file that lost its name is kept; a line each.
static void keep_name(const char *kind, const char *path, const char *second, const char *kept) {
  char name[PATH_MAX], text[4 * PATH_MAX], scratch[PATH_MAX + 8];
  uint64_t time = now_ns();
  const char *slash = strrchr(path, '/');
  snprintf(name, sizeof name, "%s/%020lu.op", journal, (unsigned long)time);
  snprintf(scratch, sizeof scratch, "%s.new", name);
  int length = snprintf(text, sizeof text, "%s\n%.*s\n%s\n%s\n%s\n", kind, (int)(slash - path), path, path, second, kept);
  int fd = (int)syscall(SYS_openat, AT_FDCWD, scratch, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0 || syscall(SYS_write, fd, text, length) != length) abort();
  syscall(SYS_close, fd);
  syscall(SYS_rename, scratch, name);
}

// The absolute name of something that need not exist; 0: not below the root.
static int resolve(const char *path, char *out) {
  char folder[PATH_MAX], real[PATH_MAX];
  pthread_once(&once, prepare);
  if (!root[0]) return 0;
  snprintf(folder, sizeof folder, "%s", path);
  char *slash = strrchr(folder, '/');
  const char *base = slash ? path + (slash - folder) + 1 : path;
  if (slash) *slash = 0;
  if (!realpath(slash ? (slash == folder ? "/" : folder) : ".", real)) return 0;
  if (snprintf(out, PATH_MAX, "%s/%s", real, base) >= PATH_MAX) return 0;
  return below_root(out);
}

// Keeps the file at `path` under a name of ours; "-" when there is none or it is no regular file.
static void keep_file(const char *path, char *kept) {
  struct stat info;
  strcpy(kept, "-");
  if (lstat(path, &info) != 0 || !S_ISREG(info.st_mode)) return;
  snprintf(kept, PATH_MAX, "%s/.power/%020lu.kept", root, (unsigned long)now_ns());
  if (link(path, kept) != 0) strcpy(kept, "-");
}

static int open_watched(int folder, const char *path, int flags, mode_t mode) {
  char full[PATH_MAX];
  int saved = errno;
  const char *boot = getenv("POWER_SHIM_BOOT");
  if (boot && strcmp(path, "/proc/sys/kernel/random/boot_id") == 0) path = boot;
  const int absolute = folder == AT_FDCWD || path[0] == '/';
  const int writes = (flags & O_ACCMODE) != O_RDONLY && (flags & O_TMPFILE) != O_TMPFILE;
  if (!writes || !absolute || !resolve(path, full)) {
    errno = saved;
    return (int)syscall(SYS_openat, folder, path, flags, mode);
  }
  pthread_mutex_lock(&names_lock);
  const int existed = access(full, F_OK) == 0;
  int fd = (int)syscall(SYS_openat, folder, path, flags & ~O_TRUNC, mode);
  saved = errno;
  if (fd >= 0 && !existed) keep_name("create", full, "-", "-");
  pthread_mutex_unlock(&names_lock);
  if (fd >= 0) (void)look_up(fd, 1);
  if (fd >= 0 && (flags & O_TRUNC) && size_of(fd) && ftruncate(fd, 0) != 0) abort();
  errno = saved;
  return fd;
}
static mode_t mode_of(int flags, va_list *arguments) {
  return flags & (O_CREAT | __O_TMPFILE) ? (mode_t)va_arg(*arguments, int) : 0;
}
int open(const char *path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  mode_t mode = mode_of(flags, &arguments);
  va_end(arguments);
  return open_watched(AT_FDCWD, path, flags, mode);
}
int open64(const char *path, int flags, ...) __attribute__((alias("open")));
int openat(int folder, const char *path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  mode_t mode = mode_of(flags, &arguments);
  va_end(arguments);
  return open_watched(folder, path, flags, mode);
}
int openat64(int folder, const char *path, int flags, ...) __attribute__((alias("openat")));

int rename(const char *from, const char *to) {
  char full_from[PATH_MAX], full_to[PATH_MAX], kept[PATH_MAX];
  if (!resolve(to, full_to) || !resolve(from, full_from)) return REAL(rename)(from, to);
  pthread_mutex_lock(&names_lock);
  keep_file(full_to, kept);
  int result = REAL(rename)(from, to);
  int saved = errno;
  if (result == 0) keep_name("rename", full_to, full_from, kept);
  pthread_mutex_unlock(&names_lock);
  errno = saved;
  return result;
}

static void names_are_safe(const char *folder, uint64_t before);
int unlink(const char *path) {
  char full[PATH_MAX], kept[PATH_MAX];
  if (!resolve(path, full)) return REAL(unlink)(path);
  pthread_mutex_lock(&names_lock);
  keep_file(full, kept);
  int result = REAL(unlink)(path);
  int saved = errno;
  if (result == 0 && kept[0] != '-') keep_name("unlink", full, "-", kept);
  pthread_mutex_unlock(&names_lock);
  if (result == 0) names_are_safe(NULL, now_ns() - 1000000000u);
  errno = saved;
  return result;
}

// ---- syncs ----

// The file has lost its last name for good: nothing of it comes back, and its space is free.
static void forget_file(const char *kept) {
  struct stat info;
  char path[PATH_MAX + 64];
  if (lstat(kept, &info) == 0 && info.st_nlink == 2) {  // ours: the kept name, and the link of its contents
    snprintf(path, sizeof path, "%s/.power/%lu-%lu", root, (unsigned long)info.st_dev, (unsigned long)info.st_ino);
    syscall(SYS_unlink, path);
  }
  syscall(SYS_unlink, kept);
}

// `folder` NULL: any, but only files that were removed. A journaling file system commits those by itself before long.
static void names_are_safe(const char *folder, uint64_t before) {
  DIR *directory = opendir(journal);
  pthread_mutex_lock(&names_lock);
  for (struct dirent *one; directory && (one = readdir(directory));) {
    char path[PATH_MAX], text[4 * PATH_MAX], *end;
    if (!(end = strstr(one->d_name, ".op")) || end[3] || strtoull(one->d_name, NULL, 10) >= before) continue;
    snprintf(path, sizeof path, "%s/%s", journal, one->d_name);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    long length = fd < 0 ? 0 : syscall(SYS_read, fd, text, sizeof text - 1);
    if (fd >= 0) syscall(SYS_close, fd);
    if (length <= 0) continue;
    text[length] = 0;
    char *lines[5], *rest = text;
    for (int i = 0; i < 5; i++) lines[i] = strsep(&rest, "\n");
    if (!lines[4] || (folder ? strcmp(lines[1], folder) != 0 : strcmp(lines[0], "unlink") != 0)) continue;
    // In this order: a process may be killed in between, and what is kept may be too much but never too little.
    syscall(SYS_unlink, path);
    if (lines[4][0] != '-') forget_file(lines[4]);
  }
  pthread_mutex_unlock(&names_lock);
  if (directory) closedir(directory);
}

static int sync_folder(int fd, int (*real)(int)) {
  char link_name[64], path[PATH_MAX];
  snprintf(link_name, sizeof link_name, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link_name, path, sizeof path - 1);
  uint64_t before = now_ns();
  if (lies()) return 0;
  int result = real(fd), saved = errno;
  if (result == 0 && length > 0) {
    path[length] = 0;
    names_are_safe(path, before);
  }
  errno = saved;
  return result;
}

static int sync_watched(int fd, int (*real)(int)) {
  struct stat info;
  pthread_once(&once, prepare);
  if (root[0] && fstat(fd, &info) == 0 && S_ISDIR(info.st_mode)) return sync_folder(fd, real);
  struct file *file = look_up(fd, 0);
  if (!file) return real(fd);
  if (lies()) return 0;
  pthread_mutex_lock(&file->lock);
  unsigned safe = file->generation;
  if (file->journal >= 0) {
    syscall(SYS_close, file->journal);
    file->journal = -1;
    file->generation++;
  } else {
    safe = file->generation - 1;  // nothing since the last sync began
  }
  pthread_mutex_unlock(&file->lock);
  int result = real(fd), saved = errno;
  if (result == 0) {
    pthread_mutex_lock(&file->lock);
    for (; file->oldest <= safe; file->oldest++) {
      char path[PATH_MAX];
      journal_path(path, file, file->oldest);
      syscall(SYS_unlink, path);
    }
    pthread_mutex_unlock(&file->lock);
  }
  errno = saved;
  return result;
}
int fdatasync(int fd) { return sync_watched(fd, REAL(fdatasync)); }
int fsync(int fd) { return sync_watched(fd, REAL(fsync)); }
