#include "loza/train/data.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <numeric>
#include <optional>
#include <utility>

#include "loza/base/check.h"
#include "loza/base/error.h"
#include "loza/base/hash.h"
#include "loza/base/random.h"
#include "loza/tasks/haystack.h"
#include "loza/tasks/rows.h"

namespace loza {
namespace {

// Keeps a run's generated documents apart from those of an evaluation with the same seed.
constexpr std::uint64_t kDataSalt = 0x6C6F7A612D646174ull;
constexpr std::uint64_t kSpreadSalt = 0x7370726561642D31ull;

std::vector<std::string> split_names(const std::string& text) {
  std::vector<std::string> names;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    names.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return names;
}

// "lines*3" -> lines, 3; without a number it is 1.
std::pair<std::string, std::int64_t> parse_share(const std::string& text) {
  const std::size_t star = text.rfind('*');
  if (star == std::string::npos) return {text, 1};
  std::int64_t share = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data() + star + 1, end, share);
  if (error != std::errc() || rest != end || share < 1 || share > 1000) {
    throw_usage("--data", "NAME*N with N from 1 to 1000", fmt::format("'{}'", text));
  }
  return {text.substr(0, star), share};
}

std::string task_names() {
  std::string names;
  for (const TaskInfo& task : tasks()) names += fmt::format("{}, ", task.name);
  return names;
}

// Item `i` of an order in which each of n items comes once: i -> (a i + b) mod n with a and n
// coprime, so that no table is kept.
std::int64_t shuffled(std::int64_t i, std::int64_t n, Random random) {
  std::int64_t factor = 1 + random.below(n);
  while (std::gcd(factor, n) != 1) ++factor;
  const auto product = static_cast<__int128>(factor) * i + random.below(n);
  return static_cast<std::int64_t>(product % n);
}

// A new stream for each (seed, key).
Random keyed_random(std::uint64_t seed, std::uint64_t key) {
  return Random(Random(seed ^ kDataSalt).next() + key);
}

}  // namespace

// One name of DataOptions::sources.
struct Data::Source {
  std::string kind;                // the task's name and suffix, or the file's without its ending
  std::int64_t num_shares = 1;     // documents in a round
  const TaskInfo* task = nullptr;  // a generated task, or:
  std::vector<TokenizedDocument> documents;

  TaskOptions task_options;  // haystacks below
  double spread_share = 1;
  std::optional<Haystack> prose, code;
  EncodeText encode;

  Source(const std::string& name, const DataOptions& options, const Tokenizer& tokenizer,
         TokenizedFiles& files);
  void cut(const std::vector<TokenizedDocument>& whole, const std::string& name,
           std::int64_t length);
  void prepare_task(const DataOptions& options);
  TokenizedDocument draw(std::uint64_t seed, std::int64_t index) const;
};

Data::Source::Source(const std::string& name, const DataOptions& options,
                     const Tokenizer& tokenizer, TokenizedFiles& files)
    : kind(find_task(name) != nullptr ? name : std::filesystem::path(name).stem().string()),
      task(find_task(name)),
      encode([&tokenizer](std::string_view text) { return tokenizer.encode(text); }) {
  if (task != nullptr) {
    prepare_task(options);
  } else if (name.find('.') != std::string::npos || name.find('/') != std::string::npos) {
    cut(files.get(name), name, options.length);
  } else {
    throw_usage("--data", fmt::format("{}or a file", task_names()), fmt::format("'{}'", name),
                "write ./NAME for a file without an ending");
  }
}

void Data::Source::cut(const std::vector<TokenizedDocument>& whole, const std::string& name,
                       std::int64_t length) {
  for (const TokenizedDocument& document : whole) {
    const std::int64_t window_len = document.answers.empty() ? length : document.length();
    for (auto& window : cut_into_windows(document, std::max<std::int64_t>(window_len, 2))) {
      documents.push_back(std::move(window));
    }
  }
  if (documents.empty()) throw_bad_input(name, "documents", "none");
}

void Data::Source::prepare_task(const DataOptions& options) {
  if (!options.prose.empty()) prose = Haystack::from_file(options.prose);
  if (!options.code.empty()) code = Haystack::from_file(options.code);
  task_options.length = options.length;
  task_options.num_questions = options.num_questions;
  task_options.spread_to = options.spread_to;
  spread_share = options.spread_share;
  task_options.prose = prose ? &*prose : nullptr;
  task_options.code = code ? &*code : nullptr;
  task_options.count_tokens = [this](std::string_view text) {
    return static_cast<std::int64_t>(encode(text).size());
  };
}

TokenizedDocument Data::Source::draw(std::uint64_t seed, std::int64_t index) const {
  if (task != nullptr) {
    TaskOptions seeded = task_options;
    seeded.seed = seed ^ kDataSalt;
    if (keyed_random(seed ^ kSpreadSalt, static_cast<std::uint64_t>(index)).uniform() >=
        spread_share) {
      seeded.spread_to = 0;
    }
    return tokenize_document(make_document(kind, seeded, index), encode);
  }
  const auto n = static_cast<std::int64_t>(documents.size());
  const auto epoch = static_cast<std::uint64_t>(index / n);
  return documents[static_cast<std::size_t>(shuffled(index % n, n, keyed_random(seed, epoch)))];
}

const std::vector<TokenizedDocument>& TokenizedFiles::get(const std::string& name) {
  const auto found = files_.find(name);
  if (found != files_.end()) return found->second;
  const std::vector<Document> rows = load_rows(name);
  const auto encode = [this](std::string_view text) { return tokenizer_.encode(text); };
  std::vector<TokenizedDocument> documents;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    try {
      documents.push_back(tokenize_document(rows[i], encode));
    } catch (const Error& error) {
      Error::Text text = error.text();
      text.place = fmt::format("{}: document {}: {}", name, i + 1, text.place);
      throw Error(error.code(), text);
    }
  }
  return files_.emplace(name, std::move(documents)).first->second;
}

Data::Data(const DataOptions& options, const Tokenizer& tokenizer) {
  TokenizedFiles files(tokenizer);
  *this = Data(options, tokenizer, files);
}

Data::Data(const DataOptions& options, const Tokenizer& tokenizer, TokenizedFiles& files) {
  if (options.length < 2) {
    throw_usage("--length", "at least 2 tokens", fmt::format("{}", options.length));
  }
  for (const std::string& text : split_names(options.sources)) {
    const auto [name, num_shares] = parse_share(text);
    auto source = std::make_shared<Source>(name, options, tokenizer, files);
    source->num_shares = num_shares;
    for (std::int64_t turn = 0; turn < num_shares; ++turn) {
      shares_.push_back({sources_.size(), turn});
    }
    sources_.push_back(std::move(source));
  }
}

TokenizedDocument Data::draw(std::uint64_t seed, std::int64_t index) const {
  LOZA_CHECK(index >= 0, index);
  const auto n = static_cast<std::int64_t>(shares_.size());
  const std::int64_t round = index / n;
  std::vector<std::int64_t> order(shares_.size());
  std::iota(order.begin(), order.end(), 0);
  keyed_random(seed, ~static_cast<std::uint64_t>(round)).shuffle(order);
  const std::int64_t place = order[static_cast<std::size_t>(index % n)];
  const Share& share = shares_[static_cast<std::size_t>(place)];
  const Source& source = *sources_[share.source_idx];
  TokenizedDocument document = source.draw(seed, round * source.num_shares + share.turn);
  document.kind = source.kind;
  return document;
}

void hash_document(Sha256& hash, const TokenizedDocument& document) {
  const std::int64_t length = document.length();
  hash.update(std::as_bytes(std::span(&length, 1)));
  hash.update(std::as_bytes(std::span(document.ids)));
  hash.update(std::as_bytes(std::span(document.is_answer)));
  hash.update(std::as_bytes(std::span(document.positions)));
}

}  // namespace loza
