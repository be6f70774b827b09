#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace loza {

// Remembers the tokens of words that were encoded before: most words of a text are. Holds
// at most some 10 MB; begins again when it is full. Thread-safe.
class WordCache {
 public:
  // Appends the word's ids and returns true, or returns false when it is not known.
  bool append(std::string_view word, std::vector<std::int64_t>& ids) const {
    if (word.size() > kMaxWordBytes) return false;
    std::shared_lock lock(mutex_);
    const auto it = words_.find(word);
    if (it == words_.end()) return false;
    ids.insert(ids.end(), it->second.begin(), it->second.end());
    return true;
  }

  void remember(std::string_view word, const std::vector<std::int64_t>& ids) {
    if (word.size() > kMaxWordBytes) return;
    std::unique_lock lock(mutex_);
    if (words_.size() >= kMaxWords) words_.clear();
    words_.emplace(word, ids);
  }

 private:
  static constexpr std::size_t kMaxWords = 65'536;
  static constexpr std::size_t kMaxWordBytes = 64;

  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view word) const {
      return std::hash<std::string_view>()(word);
    }
  };

  mutable std::shared_mutex mutex_;
  std::unordered_map<std::string, std::vector<std::int64_t>, Hash, std::equal_to<>> words_;
};

}  // namespace loza
