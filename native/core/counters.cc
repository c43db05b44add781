#include "core/counters.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>

#include "core/check.h"

namespace understudy {

CounterPages &CounterPages::instance() {
  static CounterPages *pages = new CounterPages;  // never destroyed: JavaScript may read it to the very end
  return *pages;
}

CounterPages::CounterPages() {
  void *data = mmap(nullptr, bytes(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(data != MAP_FAILED);
  words_ = static_cast<std::atomic<uint64_t> *>(data);
}

CounterPage CounterPages::take() {
  std::lock_guard lock(mutex_);
  for (uint32_t number = 0; number < kPages; number++) {
    if (used_[number / 64] >> (number % 64) & 1) continue;
    used_[number / 64] |= 1ull << (number % 64);
    CounterPage page(words_ + number * CounterPage::kWords, number);
    for (size_t word = 0; word < CounterPage::kWords; word++) page.set(word, 0);
    return page;
  }
  CHECK(!"more than 4096 counter pages");
  return {};
}

void CounterPages::give_back(CounterPage page) {
  std::lock_guard lock(mutex_);
  used_[page.number() / 64] &= ~(1ull << (page.number() % 64));
}

void count_request(CounterPage &page, RequestKind kind, uint64_t bytes, uint64_t latency_ns, bool failed) {
  page.add(kind_word(kind, 0), 1);
  if (failed) {
    page.add(kind_word(kind, 2), 1);
  } else {
    page.add(kind_word(kind, 1), bytes);
  }
  page.add(kind_word(kind, 3), latency_ns);
  // bucket i: [2^(i+8), 2^(i+9)) ns; the first also takes what is faster, the last what is slower
  const int log2 = 63 - std::countl_zero(latency_ns | 1);
  page.add(kind_word(kind, kKindBuckets + static_cast<size_t>(std::clamp(log2 - 8, 0, 31))), 1);
}

}  // namespace understudy
