#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "loza/base/error.h"
#include "loza/checkpoint/checkpoint.h"
#include "loza/checkpoint/safetensors_writer.h"

// The format: 8 bytes, little-endian: the header's length; the header, a JSON object from
// tensor names to dtype, shape and offsets; the tensors' bytes.
// https://github.com/huggingface/safetensors
namespace loza {
namespace {

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;
constexpr std::size_t kMaxRank = 8;
// Together with the header's length these bound what a header can make us allocate.
constexpr std::size_t kMaxTensors = std::size_t{1} << 17;
constexpr std::size_t kMaxMetadata = std::size_t{1} << 16;

struct Offsets {
  std::uint64_t begin = 0, end = 0;  // in the data that follows the header
};

// Turns the header into entries in one walk, keeping nothing that it has not checked.
class HeaderReader : public nlohmann::json_sax<Json> {
 public:
  HeaderReader(const std::string& place, std::span<const std::byte> data,
               std::map<std::string, TensorEntry>& tensors,
               std::map<std::string, std::string>& metadata)
      : place_(place), data_(data), tensors_(tensors), metadata_(metadata) {}

  // The offsets of all tensors, in the order of the header.
  std::vector<Offsets> take_offsets() { return std::move(all_offsets_); }

  bool null() override { refuse("null"); }
  bool boolean(bool) override { refuse("a boolean"); }
  bool binary(binary_t&) override { refuse("binary"); }
  bool number_float(number_float_t, const string_t& text) override {
    refuse(fmt::format("the number {}", quote_name(text)));
  }
  bool number_integer(number_integer_t value) override {
    refuse(fmt::format("the number {}", value));
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (state_ == State::kShape) {
      if (entry_.shape.size() == kMaxRank) {
        fail(fmt::format("at most {} dimensions", kMaxRank), "more");
      }
      if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
        fail("dimensions below 2^63", fmt::format("{}", value));
      }
      entry_.shape.push_back(static_cast<std::int64_t>(value));
    } else if (state_ == State::kOffsets) {
      if (num_offsets_ == 2) fail("two data_offsets", "more");
      (num_offsets_++ == 0 ? offsets_.begin : offsets_.end) = value;
    } else {
      refuse(fmt::format("the number {}", value));
    }
    return true;
  }
  bool string(string_t& value) override {
    if (state_ == State::kMetadata) {
      metadata_[field_] = std::move(value);
    } else if (state_ == State::kTensor && field_ == "dtype") {
      if (safetensors_element_bytes(value) == 0) fail("a dtype that loza knows", quote_name(value));
      entry_.dtype = std::move(value);
    } else {
      refuse(fmt::format("the string {}", quote_name(value)));
    }
    return true;
  }
  bool start_object(std::size_t) override {
    if (state_ == State::kStart) {
      state_ = State::kTop;
    } else if (state_ == State::kTop && entry_.name == "__metadata__") {
      state_ = State::kMetadata;
    } else if (state_ == State::kTop) {
      state_ = State::kTensor;
    } else {
      refuse("an object");
    }
    return true;
  }
  bool key(string_t& name) override {
    if (state_ == State::kTop) {
      start_entry(name);
    } else if (state_ == State::kMetadata) {
      if (metadata_.count(name) != 0)
        fail("each name once", fmt::format("{} twice", quote_name(name)));
      if (metadata_.size() == kMaxMetadata) {
        fail(fmt::format("at most {} entries", kMaxMetadata), "more");
      }
      field_ = std::move(name);
    } else {
      start_field(name);
    }
    return true;
  }
  bool end_object() override {
    if (state_ == State::kTensor) finish_entry();
    state_ = State::kTop;
    return true;
  }
  bool start_array(std::size_t) override {
    if (state_ == State::kTensor && field_ == "shape") {
      state_ = State::kShape;
    } else if (state_ == State::kTensor && field_ == "data_offsets") {
      state_ = State::kOffsets;
    } else {
      refuse("an array");
    }
    return true;
  }
  bool end_array() override {
    state_ = State::kTensor;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& e) override {
    throw_json_error(place_ + ": header", position, e);
  }

 private:
  enum class State { kStart, kTop, kMetadata, kTensor, kShape, kOffsets };

  void start_entry(const std::string& name) {
    if (tensors_.count(name) != 0 || (name == "__metadata__" && has_metadata_)) {
      throw_bad_input(place_, "each name once in the header",
                      fmt::format("{} twice", quote_name(name)));
    }
    if (tensors_.size() == kMaxTensors) {
      throw_bad_input(place_, fmt::format("at most {} tensors in one file", kMaxTensors), "more");
    }
    has_metadata_ |= name == "__metadata__";
    entry_ = {};
    entry_.name = name;
    offsets_ = {};
    num_offsets_ = 0;
    has_dtype_ = has_shape_ = has_offsets_ = false;
  }

  void start_field(const std::string& name) {
    bool* seen = name == "dtype"          ? &has_dtype_
                 : name == "shape"        ? &has_shape_
                 : name == "data_offsets" ? &has_offsets_
                                          : nullptr;
    if (seen == nullptr) fail("dtype, shape and data_offsets alone", quote_name(name));
    if (*seen) fail("each name once", fmt::format("{} twice", quote_name(name)));
    *seen = true;
    field_ = name;
  }

  void finish_entry() {
    if (!has_dtype_) fail("a dtype", "none");
    if (!has_shape_) fail("a shape", "none");
    if (num_offsets_ != 2) fail("two data_offsets", fmt::format("{}", num_offsets_));
    if (offsets_.begin > offsets_.end || offsets_.end > data_.size()) {
      fail(
          fmt::format("data_offsets in order and within the file's {} bytes of data", data_.size()),
          fmt::format("[{}, {}]", offsets_.begin, offsets_.end));
    }
    std::uint64_t num_bytes = safetensors_element_bytes(entry_.dtype);
    for (const std::int64_t size : entry_.shape) {
      if (__builtin_mul_overflow(num_bytes, static_cast<std::uint64_t>(size), &num_bytes)) {
        fail("a shape whose size in bytes is below 2^64",
             fmt::format("[{}]", fmt::join(entry_.shape, ", ")));
      }
    }
    if (offsets_.end - offsets_.begin != num_bytes) {
      fail(fmt::format("{} bytes for {} [{}]", num_bytes, entry_.dtype,
                       fmt::join(entry_.shape, ", ")),
           fmt::format("{}", offsets_.end - offsets_.begin));
    }
    entry_.bytes = data_.subspan(offsets_.begin, num_bytes);
    all_offsets_.push_back(offsets_);
    std::string name = entry_.name;
    tensors_.emplace(std::move(name), std::move(entry_));
  }

  [[noreturn]] void fail(std::string expected, std::string got) const {
    throw_bad_input(fmt::format("{}: tensor {}", place_, quote_name(entry_.name)),
                    std::move(expected), std::move(got));
  }
  // What stands at the wrong place in the header.
  [[noreturn]] void refuse(std::string got) const {
    switch (state_) {
      case State::kStart:
      case State::kTop:
        throw_bad_input(place_ + ": header", "an object of tensors", std::move(got));
      case State::kMetadata:
        throw_bad_input(place_ + ": __metadata__", "strings", std::move(got));
      case State::kShape:
      case State::kOffsets:
        fail(fmt::format("whole numbers from 0 on in {}", field_), std::move(got));
      case State::kTensor:
        fail(field_ == "dtype" ? "a string for dtype" : fmt::format("an array for {}", field_),
             std::move(got));
    }
    __builtin_unreachable();
  }

  const std::string& place_;
  std::span<const std::byte> data_;
  std::map<std::string, TensorEntry>& tensors_;
  std::map<std::string, std::string>& metadata_;
  std::vector<Offsets> all_offsets_;
  State state_ = State::kStart;
  TensorEntry entry_;  // the tensor being read
  std::string field_;  // the name last read inside it, or inside __metadata__
  Offsets offsets_;
  int num_offsets_ = 0;
  bool has_metadata_ = false, has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
};

// The tensors must tile the data: no gap in which something hides, no overlap.
void check_contiguous(std::vector<Offsets> offsets, std::uint64_t num_data_bytes,
                      const std::string& place) {
  std::sort(offsets.begin(), offsets.end(), [](const Offsets& a, const Offsets& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::uint64_t end = 0;
  for (const Offsets& o : offsets) {
    if (o.begin != end) {
      throw_bad_input(
          place, fmt::format("a tensor that begins at byte {} of the data", end),
          fmt::format("{} at {}", o.begin < end ? "an overlap" : "the next one", o.begin));
    }
    end = o.end;
  }
  if (end != num_data_bytes) {
    throw_bad_input(place, fmt::format("tensors up to the end of the data, {}", num_data_bytes),
                    fmt::format("the last one ends at {}", end),
                    "the file may be incomplete: download it again");
  }
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path) {
  const std::string place = path.string();
  const std::span<const std::byte> bytes = file_.bytes();
  if (bytes.size() < kLengthBytes) {
    throw_bad_input(place, "a safetensors file, at least 8 bytes",
                    fmt::format("{} bytes", bytes.size()));
  }
  std::uint64_t num_header_bytes;
  std::memcpy(&num_header_bytes, bytes.data(), kLengthBytes);
  const std::uint64_t limit = std::min<std::uint64_t>(kMaxHeaderBytes, bytes.size() - kLengthBytes);
  if (num_header_bytes > limit) {
    throw_bad_input(place, fmt::format("a header of at most {} bytes", limit),
                    fmt::format("{}", num_header_bytes),
                    "the file may be incomplete: download it again");
  }
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes,
                                num_header_bytes);
  if (header.empty() || header.front() != '{') {
    throw_bad_input(place, "a header that begins with '{'",
                    header.empty() ? "an empty one" : quote_name(header.substr(0, 1)));
  }
  const std::span<const std::byte> data = bytes.subspan(kLengthBytes + num_header_bytes);
  HeaderReader reader(place, data, tensors_, metadata_);
  walk_json(header, place + ": header", reader);
  check_contiguous(reader.take_offsets(), data.size(), place);
}

}  // namespace loza
