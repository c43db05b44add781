#include "filesystem/swap-watch.h"

#include "filesystem/swap.h"

namespace understudy::filesystem {
namespace {

class SwapWatch final : public Watch {
 public:
  SwapWatch(const Space &space, std::string header) : space_(space), header_(std::move(header)) {
    space_.map(0, header_.size(), [&](uint64_t offset, uint64_t bytes) { places_.push_back({offset, bytes}); });
  }

  std::vector<ByteRange> ranges() const override { return ranges_; }
  Verdict start(const Watch *) override { return look_at_header(); }
  Verdict wrote(uint64_t offset, uint64_t bytes) override {
    for (const ByteRange &place : places_)
      if (offset < place.offset + place.bytes && place.offset < offset + bytes) return look_at_header();
    return {};
  }
  void leave_out(uint64_t offset, uint64_t bytes) { ranges_.push_back({offset, bytes}); }

 private:
  Verdict look_at_header() {
    if (spent_) return {};
    std::string now(header_.size(), '\0');
    if (space_.read(0, now.data(), now.size()).ok() && now == header_) return {};
    spent_ = true;
    return {.kind = Verdict::kStale, .why = "the header of a swap area has changed"};
  }

  const Space space_;
  const std::string header_;
  std::vector<ByteRange> places_, ranges_;
  bool spent_ = false;
};

}  // namespace

Result<std::unique_ptr<Watch>> watch_swap(const Space &space, const std::vector<uint8_t> &left_out) {
  const auto area = find_swap(space);
  if (!area.ok()) return area.status;
  std::string header(area.value.page_bytes, '\0');
  if (auto status = space.read(0, header.data(), header.size()); !status.ok()) return status;
  // What is changed from here on is seen by start(); what was before is found now.
  const auto now = list_swap(space);
  if (!now.ok()) return now.status;
  auto watch = std::make_unique<SwapWatch>(space, std::move(header));
  if (left_out.at(0))
    for (const Extent &extent : now.value.extents) watch->leave_out(extent.offset, extent.bytes);
  return std::unique_ptr<Watch>(std::move(watch));
}

}  // namespace understudy::filesystem
