// sources: native/core/core.cc
// The latencies of the benchmark's load generator: bench/load/histogram.h, against sorted values.
#include "../../bench/load/histogram.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <vector>

using understudy::bench::Histogram;

static int g_tests = 0, g_failures = 0;
static void ok(bool good, const std::string &title) {
  printf("%s %d - %s\n", good ? "ok" : "not ok", ++g_tests, title.c_str());
  if (!good) g_failures++;
}

int main() {
  std::mt19937_64 random(7);
  auto histogram = std::make_unique<Histogram>(), half = std::make_unique<Histogram>();
  ok(histogram->quantile(0.5) == 0 && histogram->max() == 0, "nothing counted: all is 0");

  std::vector<uint64_t> values;
  for (int i = 0; i < 100'000; ++i) values.push_back(random() >> (random() % 64));  // from 0 to 2^64 - 1
  for (size_t i = 0; i < values.size(); ++i) (i % 2 ? *histogram : *half).add(values[i]);
  histogram->merge(*half);
  std::sort(values.begin(), values.end());
  ok(histogram->count() == values.size() && histogram->max() == values.back(), "count and largest value, of two merged");
  bool good = true;
  for (double quantile : {0.0, 0.001, 0.25, 0.5, 0.95, 0.99, 0.999, 0.99999, 1.0}) {
    const size_t rank = std::max<size_t>(1, static_cast<size_t>(std::ceil(quantile * 1e5)));
    const uint64_t exact = values[rank - 1], found = histogram->quantile(quantile);
    if (found < exact || static_cast<double>(found) > static_cast<double>(exact) * (1 + 1.0 / 64)) {
      printf("# quantile %g: %llu, exact %llu\n", quantile, (unsigned long long)found, (unsigned long long)exact);
      good = false;
    }
  }
  ok(good, "a quantile is never too small, and at most 1/64 too large");

  good = true;
  for (uint64_t value = 0; value < 128; ++value) {
    auto one = std::make_unique<Histogram>();
    one->add(value);
    good &= one->quantile(0.5) == value;
  }
  ok(good, "what is seen once is told exactly");
  printf("1..%d\n", g_tests);
  return g_failures == 0 ? 0 : 1;
}
