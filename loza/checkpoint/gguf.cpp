#include "loza/checkpoint/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "loza/base/dtype.h"
#include "loza/base/error.h"
#include "loza/base/file.h"
#include "loza/base/float16.h"
#include "loza/base/json.h"
#include "loza/base/parallel_for.h"
#include "loza/base/progress.h"
#include "loza/checkpoint/gguf_file.h"
#include "loza/checkpoint/gguf_model.h"
#include "loza/checkpoint/gguf_tokenizer.h"
#include "loza/checkpoint/safetensors_writer.h"

namespace loza {
namespace {

struct DTypeNames {
  const char* safetensors;
  const char* torch;
};

DTypeNames names_of(ImportDType dtype) {
  switch (dtype) {
    case ImportDType::kF32:
      return {"F32", "float32"};
    case ImportDType::kBF16:
      return {"BF16", "bfloat16"};
    case ImportDType::kF16:
      return {"F16", "float16"};
  }
  __builtin_unreachable();
}

template <typename To>
std::vector<std::byte> converted(const std::vector<float>& values) {
  std::vector<std::byte> out(values.size() * sizeof(To));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const To value(values[i]);
    std::memcpy(out.data() + i * sizeof(To), &value, sizeof value);
  }
  return out;
}

void check_fits_fp16(const std::vector<float>& values, const std::string& place) {
  constexpr float kOverflow = 65520.0f;  // rounds to infinity
  for (const float value : values) {
    if (std::abs(value) < kOverflow || !std::isfinite(value)) continue;
    throw_bad_input(place, "values that fp16 holds", fmt::format("{}", value),
                    "import with --dtype bf16 or fp32");
  }
}

std::vector<std::byte> converted(const std::vector<float>& values, ImportDType dtype,
                                 const std::string& place) {
  switch (dtype) {
    case ImportDType::kF32:
      return converted<float>(values);
    case ImportDType::kBF16:
      return converted<BFloat16>(values);
    case ImportDType::kF16:
      check_fits_fp16(values, place);
      return converted<Float16>(values);
  }
  __builtin_unreachable();
}

// A tensor as rows, in the order that they have in the folder.
struct Rows {
  const GgufTensor& source;
  std::int64_t num_interleaved_heads;
  std::int64_t count = 1, length = 0, num_bytes = 0;  // bytes of one row in the file

  explicit Rows(const GgufModel::Tensor& tensor)
      : source(*tensor.source), num_interleaved_heads(tensor.num_interleaved_heads) {
    // A vector is one row, or many of one value where their order changes.
    const bool is_vector = source.shape.size() == 1;
    length = is_vector && num_interleaved_heads != 0 ? 1 : source.shape.back();
    for (const std::int64_t size : source.shape) count *= size;
    count /= length;
    num_bytes = static_cast<std::int64_t>(source.bytes.size()) / count;
  }

  std::vector<float> read(std::int64_t begin, std::int64_t end) const {
    const auto row_len = static_cast<std::size_t>(length);
    std::vector<float> values(static_cast<std::size_t>(end - begin) * row_len);
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t from = num_interleaved_heads == 0
                                    ? row
                                    : interleaved_source_row(row, count, num_interleaved_heads);
      const auto bytes = source.bytes.subspan(static_cast<std::size_t>(from * num_bytes),
                                              static_cast<std::size_t>(num_bytes));
      const auto offset = static_cast<std::size_t>(row - begin) * row_len;
      dequantize(source.type, bytes, std::span(values).subspan(offset, row_len));
    }
    return values;
  }
};

// Dequantises, reorders and converts one tensor in pieces of rows, in parallel.
void write_tensor(const GgufModel::Tensor& tensor, std::size_t slot_idx, ImportDType dtype,
                  const std::string& file_place, SafetensorsWriter& writer) {
  constexpr std::int64_t kPieceValues = 1 << 18;
  const Rows rows(tensor);
  const std::string place = fmt::format("{}: tensor {}", file_place, quote_name(rows.source.name));
  const std::int64_t in_piece = std::max<std::int64_t>(1, kPieceValues / rows.length);
  parallel_for((rows.count + in_piece - 1) / in_piece, [&](std::int64_t piece) {
    const std::int64_t begin = piece * in_piece, end = std::min(rows.count, begin + in_piece);
    const std::vector<float> values = rows.read(begin, end);
    const std::vector<std::byte> bytes = converted(values, dtype, place);
    const std::uint64_t value_bytes = bytes.size() / values.size();
    writer.write(slot_idx, static_cast<std::uint64_t>(begin * rows.length) * value_bytes, bytes);
  });
}

GgufImported write_weights_file(const GgufFile& file, const GgufModel& model, ImportDType dtype,
                                const std::filesystem::path& path) {
  std::vector<TensorSlot> slots;
  GgufImported imported;
  for (const GgufModel::Tensor& tensor : model.tensors) {
    slots.push_back({tensor.name, names_of(dtype).safetensors, tensor.source->shape});
    imported.weight_bytes += slots.back().num_bytes();
  }
  imported.num_tensors = static_cast<std::int64_t>(slots.size());
  imported.num_parameters = static_cast<std::int64_t>(
      imported.weight_bytes / safetensors_element_bytes(names_of(dtype).safetensors));

  Progress progress("importing", imported.num_tensors);
  SafetensorsWriter writer(path, std::move(slots), {{"format", "pt"}});
  for (std::size_t i = 0; i < model.tensors.size(); ++i) {
    write_tensor(model.tensors[i], i, dtype, file.place(), writer);
    progress.advance(1, model.tensors[i].name);
  }
  writer.commit();
  return imported;
}

void check_is_whole_model(const GgufFile& file) {
  if (!file.has("split.count")) return;
  const std::int64_t num_parts = file.integer("split.count");
  if (num_parts <= 1) return;
  throw_bad_input(file.place() + ": split.count", "a model in one file",
                  fmt::format("one of {} parts", num_parts),
                  "merge them with llama.cpp's gguf-split --merge");
}

}  // namespace

GgufImported import_gguf(const std::filesystem::path& path, const std::filesystem::path& target,
                         const GgufImport& options) {
  const GgufFile file(path);
  check_is_whole_model(file);
  GgufModel model = map_gguf_model(file);
  const auto vocab_size = model.config["vocab_size"].get<std::int64_t>();
  GgufTokenizer tokenizer = map_gguf_tokenizer(file, vocab_size);
  model.config["torch_dtype"] = names_of(options.dtype).torch;
  tokenizer.tokenizer_config["model_max_length"] = model.config["max_position_embeddings"];

  StagedFolder staged(target);
  const auto write_json = [&](const char* name, const Json& value) {
    write_file_atomic(staged.path() / name, value.dump(2) + "\n");
  };
  write_json("config.json", model.config);
  write_json("generation_config.json", tokenizer.generation_config);
  write_json("tokenizer.json", tokenizer.tokenizer);
  write_json("tokenizer_config.json", tokenizer.tokenizer_config);
  GgufImported imported =
      write_weights_file(file, model, options.dtype, staged.path() / "model.safetensors");
  imported.architecture = model.config["architectures"][0].get<std::string>();
  staged.commit();
  return imported;
}

}  // namespace loza
