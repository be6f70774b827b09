#include "loza/checkpoint/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <unordered_set>
#include <utility>

#include "loza/base/error.h"

namespace loza {
namespace fs = std::filesystem;
namespace {

constexpr const char* kConfig = "config.json";
constexpr const char* kGenerationConfig = "generation_config.json";
constexpr const char* kWeights = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr std::uint64_t kMaxConfigBytes = std::uint64_t{2} << 20;
constexpr std::uint64_t kMaxIndexBytes = std::uint64_t{64} << 20;
constexpr int kMaxIndexDepth = 64;

// Both canonical; a folder is inside itself.
bool is_inside(const fs::path& folder, const fs::path& path) {
  return std::mismatch(folder.begin(), folder.end(), path.begin(), path.end()).first ==
         folder.end();
}

// `name` in the folder, after checking that following links does not lead out of it.
fs::path inside(const fs::path& folder, const fs::path& name) {
  const fs::path path = folder / name;
  std::error_code error;
  const fs::path real_folder = fs::canonical(folder, error);
  const fs::path real_path = error ? fs::path() : fs::canonical(path, error);
  if (error) throw_bad_input(path.string(), "a readable file", error.message());
  if (!is_inside(real_folder, real_path)) {
    throw_bad_input(path.string(), "a file inside the folder", "a link that leads out of it",
                    "copy the folder with its links followed (cp -rL)");
  }
  return path;
}

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::symlink_status(path, ignored).type() != fs::file_type::not_found;
}

Json read_object(const fs::path& path) {
  Json value = parse_json(read_file(path, kMaxConfigBytes), path.string());
  if (!value.is_object()) throw_bad_input(path.string(), "a JSON object", describe_json(value));
  return value;
}

// Reads model.safetensors.index.json in one walk, opening each shard when its name first
// appears, so that no entry is kept that names no tensor.
class IndexReader : public nlohmann::json_sax<Json> {
 public:
  IndexReader(const fs::path& folder, std::vector<std::unique_ptr<SafetensorsFile>>& files,
              std::map<std::string, const TensorEntry*>& tensors)
      : folder_(folder), place_((folder / kIndex).string()), files_(files), tensors_(tensors) {}

  void read() {
    const MappedFile file(inside(folder_, kIndex));
    if (file.size() > kMaxIndexBytes) {
      throw_bad_input(place_, fmt::format("at most {} bytes", kMaxIndexBytes),
                      fmt::format("{}", file.size()));
    }
    const auto bytes = file.bytes();
    walk_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, place_, *this);
    if (!has_weight_map_) throw_bad_input(place_, "a weight_map", "none");
    check_every_tensor_is_named();
  }

  bool null() override { return other("null"); }
  bool boolean(bool) override { return other("a boolean"); }
  bool binary(binary_t&) override { return other("binary"); }
  bool number_float(number_float_t, const string_t&) override { return other("a number"); }
  bool number_integer(number_integer_t) override { return other("a number"); }
  bool number_unsigned(number_unsigned_t) override { return other("a number"); }
  bool string(string_t& value) override {
    if (depth_ == 2 && in_weight_map_) {
      add(value);
      return true;
    }
    return other("a string");
  }
  bool start_object(std::size_t) override {
    if (depth_ == 2 && in_weight_map_) other("an object");
    return enter();
  }
  bool key(string_t& name) override {
    if (depth_ == 1) {
      if (!top_names_.insert(name).second) refuse_twice(name);
      in_weight_map_ = name == "weight_map";
      has_weight_map_ |= in_weight_map_;
    } else if (depth_ == 2 && in_weight_map_) {
      tensor_ = std::move(name);
    }
    return true;
  }
  bool end_object() override {
    --depth_;
    return true;
  }
  bool start_array(std::size_t) override {
    if (depth_ <= 1 || (depth_ == 2 && in_weight_map_)) other("an array");
    return enter();
  }
  bool end_array() override { return end_object(); }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& e) override {
    throw_json_error(place_, position, e);
  }

 private:
  bool enter() {
    if (++depth_ > kMaxIndexDepth) {
      throw_bad_input(place_, fmt::format("JSON nested at most {} deep", kMaxIndexDepth),
                      "deeper nesting");
    }
    return true;
  }

  // A value that is no shard's name: fine beside the weight_map, where anything may stand.
  bool other(const char* what) const {
    if (depth_ == 0) throw_bad_input(place_, "a JSON object", what);
    if (in_weight_map_ && depth_ == 1) {
      throw_bad_input(place_ + ": weight_map", "an object of file names", what);
    }
    if (in_weight_map_) {
      throw_bad_input(fmt::format("{}: weight_map: {}", place_, quote_name(tensor_)),
                      "the name of a file", what);
    }
    return true;
  }

  [[noreturn]] void refuse_twice(const std::string& name) const {
    throw_bad_input(place_, "each name once in an object",
                    fmt::format("{} twice", quote_name(name)));
  }

  void add(const std::string& shard) {
    const auto& tensors = open(shard).tensors();
    const auto found = tensors.find(tensor_);
    if (found == tensors.end()) {
      throw_bad_input(place_,
                      fmt::format("tensors that are where weight_map says, {} in {}",
                                  quote_name(tensor_), quote_name(shard)),
                      "no such tensor there", "download the folder again");
    }
    if (!tensors_.emplace(tensor_, &found->second).second) refuse_twice(tensor_);
  }

  const SafetensorsFile& open(const std::string& shard) {
    const auto known = shards_.find(shard);
    if (known != shards_.end()) return *known->second;
    constexpr std::size_t kMaxNameBytes = 255;
    if (shard.empty() || shard == "." || shard == ".." || shard.size() > kMaxNameBytes ||
        shard.find_first_of("/\\") != std::string::npos || shard.find('\0') != std::string::npos) {
      throw_bad_input(fmt::format("{}: weight_map: {}", place_, quote_name(tensor_)),
                      "the plain name of a file in the folder", quote_name(shard));
    }
    if (!is_there(folder_ / shard)) {
      throw_bad_input(fmt::format("{}: weight_map: {}", place_, quote_name(tensor_)),
                      "the name of a file in the folder",
                      fmt::format("{}, which is not there", quote_name(shard)),
                      "download the missing file");
    }
    files_.push_back(std::make_unique<SafetensorsFile>(inside(folder_, shard)));
    return *(shards_[shard] = files_.back().get());
  }

  void check_every_tensor_is_named() const {
    for (const auto& [shard, file] : shards_) {
      for (const auto& [name, entry] : file->tensors()) {
        const auto found = tensors_.find(name);
        if (found != tensors_.end() && found->second == &entry) continue;
        throw_bad_input((folder_ / shard).string(), "only tensors that weight_map places there",
                        fmt::format("{} beside them", quote_name(name)),
                        "download the folder again");
      }
    }
  }

  const fs::path& folder_;
  const std::string place_;
  std::vector<std::unique_ptr<SafetensorsFile>>& files_;
  std::map<std::string, const TensorEntry*>& tensors_;
  std::map<std::string, const SafetensorsFile*> shards_;
  std::unordered_set<std::string> top_names_;
  std::string tensor_;  // the weight_map's name last read
  int depth_ = 0;
  bool in_weight_map_ = false, has_weight_map_ = false;
};

// Weights are linked where the file system allows: they are large, and nobody edits them.
void copy_entry(const fs::directory_entry& entry, const fs::path& from, const fs::path& to) {
  if (entry.is_directory() && !entry.is_symlink()) {
    fs::create_directory(to);
    return;
  }
  if (!entry.is_regular_file()) {
    throw_bad_input(from.string(), "a file or a folder", "something else");
  }
  std::error_code error;
  if (from.extension() == ".safetensors") {
    fs::create_hard_link(fs::canonical(from), to, error);
    if (!error) return;
  }
  fs::copy_file(from, to);
}

[[noreturn]] void throw_no_weights(const fs::path& folder) {
  std::string got = "neither";
  for (const char* other : {"pytorch_model.bin", "pytorch_model.bin.index.json"}) {
    if (is_there(folder / other)) got = fmt::format("{}, which loza does not read", other);
  }
  throw_bad_input(folder.string(), fmt::format("{} or {}", kWeights, kIndex), got,
                  "save the weights as safetensors");
}

}  // namespace

Checkpoint::Checkpoint(const fs::path& folder) : folder_(folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    throw_bad_input(folder.empty() ? "\"\"" : folder.string(), "a model folder",
                    is_there(folder) ? "something else" : "nothing there");
  }
  if (!is_there(folder / kConfig)) {
    throw_bad_input(folder.string(), fmt::format("a {} in the folder", kConfig), "none");
  }
  config_ = read_object(inside(folder, kConfig));
  if (is_there(folder / kGenerationConfig)) {
    generation_config_ = read_object(inside(folder, kGenerationConfig));
  }
  if (is_there(folder / kWeights)) {
    files_.push_back(std::make_unique<SafetensorsFile>(inside(folder, kWeights)));
    for (const auto& [name, entry] : files_[0]->tensors()) tensors_.emplace(name, &entry);
  } else if (is_there(folder / kIndex)) {
    IndexReader(folder_, files_, tensors_).read();
  } else {
    throw_no_weights(folder);
  }
}

const TensorEntry& Checkpoint::tensor(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    throw_bad_input(folder_.string(), fmt::format("a tensor {}", quote_name(name)), "none");
  }
  return *found->second;
}

std::uint64_t Checkpoint::tensor_bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& [name, entry] : tensors_) bytes += entry->bytes.size();
  return bytes;
}

namespace {

// Every file of `source` that `is_copied` (by its path in the folder), then what finish() writes.
void copy_folder(const fs::path& source, const fs::path& target,
                 const std::function<bool(const fs::path&)>& is_copied,
                 const std::function<void(const fs::path&)>& finish) {
  try {
    if (is_inside(fs::canonical(source), fs::weakly_canonical(target))) {
      throw_usage(target.string(), "a folder outside the one that is copied", source.string());
    }
    StagedFolder staged(target);
    for (const auto& entry : fs::recursive_directory_iterator(source)) {
      const fs::path relative = entry.path().lexically_relative(source);
      if (is_copied(relative))
        copy_entry(entry, inside(source, relative), staged.path() / relative);
    }
    finish(staged.path());
    staged.commit();
  } catch (const fs::filesystem_error& e) {
    throw Error(ExitCode::kFailed, {source.string(), "to be copied", e.what(), ""});
  }
}

}  // namespace

void copy_with_config(const fs::path& source, const fs::path& target, const Json& config) {
  copy_folder(
      source, target, [](const fs::path& file) { return file != kConfig; },
      [&](const fs::path& folder) { write_file_atomic(folder / kConfig, config.dump(2) + "\n"); });
}

void copy_with_weights(const fs::path& source, const fs::path& target,
                       const std::vector<TensorEntry>& entries) {
  copy_folder(
      source, target,
      [](const fs::path& file) { return file != kIndex && file.extension() != ".safetensors"; },
      [&](const fs::path& folder) { write_weights(folder, entries); });
}

}  // namespace loza
