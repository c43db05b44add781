#include "filesystem/lvm-text.h"

#include <algorithm>
#include <cerrno>
#include <charconv>

namespace understudy::filesystem {
namespace {

constexpr int kDepthMax = 10;

bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.' || c == '+';
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  // Everything up to the end of the section, or of the text at depth 0.
  bool section(LvmSection &into, int depth) {
    if (depth > kDepthMax) return false;
    for (;;) {
      space();
      if (at_ == text_.size()) return depth == 0;
      if (take('}')) return depth > 0;
      const std::string name = word();
      if (name.empty()) return false;
      space();
      if (take('{')) {
        if (!section(into.sections[name], depth + 1)) return false;
      } else if (!take('=') || !values(into.values[name])) {
        return false;
      }
    }
  }

 private:
  bool values(std::vector<std::string> &into) {
    into.clear();
    space();
    if (!take('[')) return value(into);
    for (;;) {
      space();
      if (take(']')) return true;
      if (!value(into)) return false;
      space();
      if (!take(',') && (at_ == text_.size() || text_[at_] != ']')) return false;
    }
  }

  bool value(std::vector<std::string> &into) {
    std::string text;
    if (!take('"')) {
      text = word();
      if (text.empty()) return false;
    } else {
      for (; at_ < text_.size() && text_[at_] != '"'; at_++) {
        if (text_[at_] == '\\') at_++;
        if (at_ < text_.size()) text += text_[at_];
      }
      if (!take('"')) return false;
    }
    into.push_back(std::move(text));
    return true;
  }

  void space() {
    for (; at_ < text_.size(); at_++) {
      if (text_[at_] == '#') at_ = std::min(text_.find('\n', at_), text_.size() - 1);
      else if (text_[at_] != ' ' && text_[at_] != '\t' && text_[at_] != '\n' && text_[at_] != '\r' && text_[at_] != '\0') return;
    }
  }
  std::string word() {
    const size_t start = at_;
    while (at_ < text_.size() && is_word(text_[at_])) at_++;
    return std::string(text_.substr(start, at_ - start));
  }
  bool take(char c) {
    if (at_ == text_.size() || text_[at_] != c) return false;
    at_++;
    return true;
  }

  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

const LvmSection *LvmSection::section(const std::string &name) const {
  const auto found = sections.find(name);
  return found == sections.end() ? nullptr : &found->second;
}

std::string LvmSection::text(const std::string &key) const {
  const auto found = values.find(key);
  return found == values.end() || found->second.size() != 1 ? "" : found->second[0];
}

bool LvmSection::number(const std::string &key, uint64_t &value) const {
  const std::string found = text(key);
  const auto [end, error] = std::from_chars(found.data(), found.data() + found.size(), value);
  return error == std::errc() && !found.empty() && end == found.data() + found.size();
}

bool LvmSection::lists(const std::string &key, std::string_view value) const {
  const auto found = values.find(key);
  return found != values.end() && std::find(found->second.begin(), found->second.end(), value) != found->second.end();
}

Result<LvmSection> parse_lvm(std::string_view text) {
  LvmSection root;
  if (!Parser(text).section(root, 0)) return Status::failed(EINVAL, "read the volume group: its text");
  return root;
}

}  // namespace understudy::filesystem
