// What most of native/ and its tests include of the standard library: compiled once, it saves a third of each compilation
// (binding.gyp, test/native/Makefile, test/fuzz/Makefile). Nothing relies on it: every file includes what it uses.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>
