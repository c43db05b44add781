// Complete reads and writes at an offset, and what makes a name durable. The result is 0 or an errno.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace understudy::replay {
int write_at(int fd, const void *data, size_t bytes, uint64_t offset);
// Reads until `bytes` or the end of the file; *done: how many there were.
int read_at(int fd, void *data, size_t bytes, uint64_t offset, size_t *done);
int sync_directory(const std::string &path);
// A file without a name, sparse, gone when closed: -errno or a descriptor.
int open_scratch(const std::string &directory);
}  // namespace understudy::replay
