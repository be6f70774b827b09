#include "loza/checkpoint/gguf_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <unordered_set>
#include <utility>

#include "loza/base/error.h"
#include "loza/base/json.h"
#include "loza/base/utf8.h"

namespace loza {
namespace {

constexpr std::uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr std::uint64_t kMaxGgufHeaderBytes = std::uint64_t{128} << 20;
constexpr std::uint64_t kMaxEntries = std::uint64_t{1} << 16;  // metadata keys; tensors
constexpr std::uint64_t kMaxNameBytes = 255;
constexpr std::uint32_t kMaxGgufRank = 4;
constexpr int kMaxNesting = 4;
constexpr std::uint64_t kMaxItems = std::uint64_t{1} << 20;  // of an array that is decoded
constexpr std::uint64_t kDefaultAlignment = 32;
constexpr std::uint64_t kMaxAlignment = std::uint64_t{1} << 20;

// Bytes of a fixed-size type; 0 for strings, arrays and numbers that name no type.
std::uint64_t fixed_bytes(GgufType type) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kBool:
      return 1;
    case GgufType::kU16:
    case GgufType::kI16:
      return 2;
    case GgufType::kU32:
    case GgufType::kI32:
    case GgufType::kF32:
      return 4;
    case GgufType::kU64:
    case GgufType::kI64:
    case GgufType::kF64:
      return 8;
    case GgufType::kString:
    case GgufType::kArray:
      break;
  }
  return 0;
}

std::string type_name(GgufType type) {
  constexpr const char* kNames[] = {"uint8",  "int8",    "uint16", "int16",  "uint32",
                                    "int32",  "float32", "bool",   "string", "array",
                                    "uint64", "int64",   "float64"};
  const auto number = static_cast<std::uint32_t>(type);
  return number < std::size(kNames) ? kNames[number] : fmt::format("type {}", number);
}

bool is_integer(GgufType type) {
  return fixed_bytes(type) != 0 && type != GgufType::kBool && type != GgufType::kF32 &&
         type != GgufType::kF64;
}

std::string describe(const GgufValue& value) {
  if (value.type != GgufType::kArray) return type_name(value.type);
  return fmt::format("an array of {} {}", value.num_items, type_name(value.item_type));
}

// Reads what comes before the tensors' data, one item after the other, never past its end.
class GgufHeaderReader {
 public:
  GgufHeaderReader(std::span<const std::byte> bytes, const std::string& place)
      : bytes_(bytes.first(std::min<std::size_t>(bytes.size(), kMaxGgufHeaderBytes))),
        place_(place) {}

  std::uint64_t position() const { return position_; }
  std::uint64_t num_left() const { return bytes_.size() - position_; }

  std::span<const std::byte> take(std::uint64_t num_bytes, const std::string& what) {
    if (num_bytes > num_left()) {
      throw_bad_input(place_, fmt::format("{} at byte {}, {} bytes", what, position_, num_bytes),
                      fmt::format("{} left", num_left()),
                      "the file may be incomplete: download it again");
    }
    const auto taken = bytes_.subspan(position_, num_bytes);
    position_ += num_bytes;
    return taken;
  }
  template <typename T>
  T number(const std::string& what) {
    T value;
    std::memcpy(&value, take(sizeof value, what).data(), sizeof value);
    return value;
  }
  // A count of things that take at least min_bytes each.
  std::uint64_t count(const std::string& what, std::uint64_t min_bytes) {
    const auto value = number<std::uint64_t>(what);
    if (value > num_left() / min_bytes) {
      throw_bad_input(place_, fmt::format("{} that fits the {} bytes left", what, num_left()),
                      fmt::format("{}", value));
    }
    return value;
  }
  std::string name(const std::string& what) {
    const std::uint64_t length = count("the length of " + what, 1);
    if (length == 0 || length > kMaxNameBytes) {
      throw_bad_input(place_, fmt::format("{} of 1 to {} bytes", what, kMaxNameBytes),
                      fmt::format("{}", length));
    }
    const auto bytes = take(length, what);
    std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (utf8_error(text) != text.size()) {
      throw_bad_input(place_, what + " in UTF-8", quote_name(text));
    }
    return text;
  }
  GgufValue value(const std::string& what) {
    GgufValue value;
    value.type = static_cast<GgufType>(number<std::uint32_t>("the type of " + what));
    const std::uint64_t begin = position_;
    if (value.type == GgufType::kArray) {
      value.item_type = static_cast<GgufType>(number<std::uint32_t>("the item type of " + what));
      value.num_items = skip_items(value.item_type, what, 1);
      value.bytes = bytes_.subspan(begin + kArrayHeadBytes, position_ - begin - kArrayHeadBytes);
    } else {
      skip(value.type, what, 0);
      value.bytes = bytes_.subspan(begin, position_ - begin);
    }
    return value;
  }

 private:
  static constexpr std::uint64_t kArrayHeadBytes = 12;  // item type, count

  // Steps over an array's count and items; `depth` arrays hold them.
  std::uint64_t skip_items(GgufType item_type, const std::string& what, int depth) {
    if (depth > kMaxNesting) {
      throw_bad_input(fmt::format("{}: {}", place_, what),
                      fmt::format("arrays nested at most {} deep", kMaxNesting), "deeper nesting");
    }
    const std::uint64_t item_bytes = fixed_bytes(item_type);
    const std::uint64_t min_bytes = item_bytes != 0                 ? item_bytes
                                    : item_type == GgufType::kArray ? kArrayHeadBytes
                                                                    : sizeof(std::uint64_t);
    const std::uint64_t num_items = count("the number of items of " + what, min_bytes);
    if (item_bytes != 0 && item_type != GgufType::kBool) {
      take(num_items * item_bytes, what);
    } else {
      for (std::uint64_t i = 0; i < num_items; ++i) skip(item_type, what, depth);
    }
    return num_items;
  }

  void skip(GgufType type, const std::string& what, int depth) {
    if (type == GgufType::kString) {
      take(number<std::uint64_t>(what), what);
    } else if (type == GgufType::kArray) {
      const auto item_type = static_cast<GgufType>(number<std::uint32_t>(what));
      skip_items(item_type, what, depth + 1);
    } else if (type == GgufType::kBool) {
      const auto value = number<std::uint8_t>(what);
      if (value > 1) {
        throw_bad_input(fmt::format("{}: {}", place_, what), "a bool, 0 or 1",
                        fmt::format("{}", value));
      }
    } else if (fixed_bytes(type) != 0) {
      take(fixed_bytes(type), what);
    } else {
      throw_bad_input(fmt::format("{}: {}", place_, what), "a GGUF value type, 0 to 12",
                      type_name(type));
    }
  }

  std::span<const std::byte> bytes_;
  const std::string& place_;
  std::uint64_t position_ = 0;
};

struct Counts {
  std::uint64_t tensors, keys;
};

Counts read_head(GgufHeaderReader& reader, const std::string& place) {
  if (reader.number<std::uint32_t>("the magic") != kMagic) {
    throw_bad_input(place, "a GGUF file, beginning with \"GGUF\"", "something else");
  }
  const auto version = reader.number<std::uint32_t>("the version");
  if (version != 2 && version != 3) {
    const bool swapped = (version & 0xFFFFu) == 0 && version != 0;
    throw_bad_input(place, "GGUF version 2 or 3, little-endian",
                    swapped ? "a big-endian file" : fmt::format("version {}", version));
  }
  constexpr std::uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8, kMinKeyBytes = 8 + 1 + 4 + 1;
  Counts counts{};
  counts.tensors = reader.count("a number of tensors", kMinTensorBytes);
  counts.keys = reader.count("a number of metadata keys", kMinKeyBytes);
  if (counts.tensors > kMaxEntries || counts.keys > kMaxEntries) {
    throw_bad_input(place, fmt::format("at most {} tensors and metadata keys", kMaxEntries),
                    fmt::format("{} and {}", counts.tensors, counts.keys));
  }
  return counts;
}

struct TensorInfo {
  GgufTensor tensor;
  std::uint64_t offset = 0;  // in the data
  std::uint64_t num_bytes = 0;
};

std::uint64_t checked_tensor_bytes(const GgufTensor& tensor, const std::string& place) {
  const GgmlBlock block = ggml_block(tensor.type);
  if (block.num_values == 0) {
    throw_bad_input(place, fmt::format("a type among {}", ggml_types_read()),
                    ggml_type_name(tensor.type));
  }
  if (tensor.shape.back() % block.num_values != 0) {
    throw_bad_input(place,
                    fmt::format("rows of whole blocks of {} for {}", block.num_values,
                                ggml_type_name(tensor.type)),
                    fmt::format("rows of {}", tensor.shape.back()));
  }
  std::uint64_t num_bytes = static_cast<std::uint64_t>(block.num_bytes);
  for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
    const bool is_row = i + 1 == tensor.shape.size();
    const std::int64_t count = is_row ? tensor.shape[i] / block.num_values : tensor.shape[i];
    if (__builtin_mul_overflow(num_bytes, static_cast<std::uint64_t>(count), &num_bytes)) {
      throw_bad_input(place, "a size in bytes below 2^64",
                      fmt::format("[{}]", fmt::join(tensor.shape, ", ")));
    }
  }
  return num_bytes;
}

TensorInfo read_tensor_info(GgufHeaderReader& reader, const std::string& file_place) {
  TensorInfo info;
  GgufTensor& tensor = info.tensor;
  tensor.name = reader.name("a tensor's name");
  const std::string what = fmt::format("tensor {}", quote_name(tensor.name));
  const std::string place = fmt::format("{}: {}", file_place, what);
  const auto rank = reader.number<std::uint32_t>("the rank of " + what);
  if (rank < 1 || rank > kMaxGgufRank) {
    throw_bad_input(place, fmt::format("1 to {} dimensions", kMaxGgufRank),
                    fmt::format("{}", rank));
  }
  for (std::uint32_t i = 0; i < rank; ++i) {
    const auto size = reader.number<std::uint64_t>("the shape of " + what);
    if (size < 1 || size > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      throw_bad_input(place, "sizes from 1 to 2^63 - 1", fmt::format("{}", size));
    }
    tensor.shape.insert(tensor.shape.begin(), static_cast<std::int64_t>(size));
  }
  tensor.type = static_cast<GgmlType>(reader.number<std::uint32_t>("the type of " + what));
  info.num_bytes = checked_tensor_bytes(tensor, place);
  info.offset = reader.number<std::uint64_t>("the offset of " + what);
  return info;
}

// Tensors lie one after the other in the order of the header, each at the next multiple of
// the alignment: so they neither overlap nor leave the file.
void place_tensors(std::vector<TensorInfo>& infos, std::span<const std::byte> data,
                   std::uint64_t alignment, const std::string& file_place) {
  std::uint64_t next = 0;
  for (TensorInfo& info : infos) {
    const std::string place =
        fmt::format("{}: tensor {}", file_place, quote_name(info.tensor.name));
    if (info.offset != next) {
      throw_bad_input(place, fmt::format("the offset {}", next), fmt::format("{}", info.offset));
    }
    if (next > data.size() || info.num_bytes > data.size() - next) {
      throw_bad_input(place, fmt::format("{} bytes of data at {}", info.num_bytes, next),
                      fmt::format("{} bytes in all", data.size()),
                      "the file may be incomplete: download it again");
    }
    info.tensor.bytes = data.subspan(next, info.num_bytes);
    next += (info.num_bytes + alignment - 1) / alignment * alignment;
  }
}

// The shortest decimal that names the float, as a double: 1e-05, not 9.999999747378752e-06.
double shortest_decimal(float value) {
  char digits[64];
  const char* end = std::to_chars(digits, digits + sizeof digits, value).ptr;
  double number = value;
  std::from_chars(digits, end, number);
  return number;
}

template <typename T>
T item_at(std::span<const std::byte> bytes, std::uint64_t index) {
  T item;
  std::memcpy(&item, bytes.data() + index * sizeof item, sizeof item);
  return item;
}

// Signed and unsigned integers of any width; nothing for other types, or beyond int64.
std::optional<std::int64_t> integer_at(GgufType type, std::span<const std::byte> bytes,
                                       std::uint64_t index) {
  switch (type) {
    case GgufType::kU8:
      return item_at<std::uint8_t>(bytes, index);
    case GgufType::kI8:
      return item_at<std::int8_t>(bytes, index);
    case GgufType::kU16:
      return item_at<std::uint16_t>(bytes, index);
    case GgufType::kI16:
      return item_at<std::int16_t>(bytes, index);
    case GgufType::kU32:
      return item_at<std::uint32_t>(bytes, index);
    case GgufType::kI32:
      return item_at<std::int32_t>(bytes, index);
    case GgufType::kI64:
      return item_at<std::int64_t>(bytes, index);
    case GgufType::kU64: {
      const auto value = item_at<std::uint64_t>(bytes, index);
      if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) return {};
      return static_cast<std::int64_t>(value);
    }
    default:
      return {};
  }
}

std::string_view utf8_text(std::span<const std::byte> bytes, const std::string& place) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const std::size_t error = utf8_error(text);
  if (error != text.size()) {
    throw_bad_input(place, "UTF-8",
                    fmt::format("other bytes at {} in {}", error, quote_name(text)));
  }
  return text;
}

}  // namespace

GgufFile::GgufFile(const std::filesystem::path& path) : file_(path), place_(path.string()) {
  GgufHeaderReader reader(file_.bytes(), place_);
  const Counts counts = read_head(reader, place_);
  for (std::uint64_t i = 0; i < counts.keys; ++i) {
    std::string key = reader.name("a metadata key");
    const GgufValue value = reader.value(quote_name(key));
    if (!metadata_.emplace(key, value).second) {
      throw_bad_input(place_, "each metadata key once", fmt::format("{} twice", quote_name(key)));
    }
  }
  std::vector<TensorInfo> infos;
  std::unordered_set<std::string> names;
  for (std::uint64_t i = 0; i < counts.tensors; ++i) {
    infos.push_back(read_tensor_info(reader, place_));
    if (!names.insert(infos.back().tensor.name).second) {
      throw_bad_input(place_, "each tensor once",
                      fmt::format("{} twice", quote_name(infos.back().tensor.name)));
    }
  }
  std::uint64_t alignment = kDefaultAlignment;
  if (has("general.alignment")) {
    alignment = static_cast<std::uint64_t>(integer("general.alignment"));
    if (alignment == 0 || (alignment & (alignment - 1)) != 0 || alignment > kMaxAlignment) {
      throw_bad_input(place_ + ": general.alignment",
                      fmt::format("a power of two up to {}", kMaxAlignment),
                      fmt::format("{}", alignment));
    }
  }
  const std::uint64_t data_begin = (reader.position() + alignment - 1) / alignment * alignment;
  const auto bytes = file_.bytes();
  place_tensors(infos, bytes.subspan(std::min<std::uint64_t>(data_begin, bytes.size())), alignment,
                place_);
  for (TensorInfo& info : infos) tensors_.push_back(std::move(info.tensor));
}

const GgufValue& GgufFile::value(std::string_view key) const {
  const auto found = metadata_.find(key);
  if (found == metadata_.end()) {
    throw_bad_input(place_, fmt::format("the metadata key {}", quote_name(key)), "none");
  }
  return found->second;
}

std::int64_t GgufFile::integer(std::string_view key) const {
  const GgufValue& v = value(key);
  const auto number = integer_at(v.type, v.bytes, 0);
  if (v.type == GgufType::kArray || !number || *number < 0) {
    throw_bad_input(fmt::format("{}: {}", place_, key), "an integer from 0 to 2^63 - 1",
                    number ? fmt::format("{}", *number) : describe(v));
  }
  return *number;
}

double GgufFile::number(std::string_view key) const {
  const GgufValue& v = value(key);
  double number = std::numeric_limits<double>::quiet_NaN();
  if (v.type == GgufType::kF32) number = shortest_decimal(item_at<float>(v.bytes, 0));
  if (v.type == GgufType::kF64) number = item_at<double>(v.bytes, 0);
  if (const auto whole = integer_at(v.type, v.bytes, 0)) number = static_cast<double>(*whole);
  if (!std::isfinite(number)) {
    throw_bad_input(fmt::format("{}: {}", place_, key), "a finite number",
                    v.type == GgufType::kF32 || v.type == GgufType::kF64 ? fmt::format("{}", number)
                                                                         : describe(v));
  }
  return number;
}

bool GgufFile::boolean(std::string_view key) const {
  const GgufValue& v = value(key);
  if (v.type != GgufType::kBool) {
    throw_bad_input(fmt::format("{}: {}", place_, key), "a bool", describe(v));
  }
  return v.bytes[0] != std::byte{0};
}

std::string_view GgufFile::string(std::string_view key) const {
  const GgufValue& v = value(key);
  const std::string place = fmt::format("{}: {}", place_, key);
  if (v.type != GgufType::kString) throw_bad_input(place, "a string", describe(v));
  return utf8_text(v.bytes.subspan(sizeof(std::uint64_t)), place);
}

const GgufValue& GgufFile::array(std::string_view key, bool of_strings) const {
  const GgufValue& v = value(key);
  const bool is_right = v.type == GgufType::kArray &&
                        (of_strings ? v.item_type == GgufType::kString : is_integer(v.item_type));
  if (!is_right || v.num_items > kMaxItems) {
    throw_bad_input(
        fmt::format("{}: {}", place_, key),
        fmt::format("an array of at most {} {}", kMaxItems, of_strings ? "strings" : "integers"),
        describe(v));
  }
  return v;
}

std::vector<std::int64_t> GgufFile::integers(std::string_view key) const {
  const GgufValue& v = array(key, /*of_strings=*/false);
  std::vector<std::int64_t> items;
  for (std::uint64_t i = 0; i < v.num_items; ++i) {
    const auto number = integer_at(v.item_type, v.bytes, i);
    if (!number) {
      throw_bad_input(fmt::format("{}: {}[{}]", place_, key, i), "an integer below 2^63",
                      "a larger one");
    }
    items.push_back(*number);
  }
  return items;
}

std::vector<std::string_view> GgufFile::strings(std::string_view key) const {
  const GgufValue& v = array(key, /*of_strings=*/true);
  std::vector<std::string_view> items;
  std::uint64_t position = 0;
  for (std::uint64_t i = 0; i < v.num_items; ++i) {
    std::uint64_t length;
    std::memcpy(&length, v.bytes.data() + position, sizeof length);
    position += sizeof length;
    items.push_back(
        utf8_text(v.bytes.subspan(position, length), fmt::format("{}: {}[{}]", place_, key, i)));
    position += length;
  }
  return items;
}

}  // namespace loza
