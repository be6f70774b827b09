// A GGUF file: refused with Error(kBadInput), or it has a config, a tokenizer and numbers.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "loza/base/error.h"
#include "loza/checkpoint/gguf_file.h"
#include "loza/checkpoint/gguf_model.h"
#include "loza/checkpoint/gguf_tokenizer.h"
#include "tests/fuzz/memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static loza::fuzz::MemoryFile file;
  file.replace(data, size);
  try {
    const loza::GgufFile gguf(file.path());
    for (const loza::GgufTensor& tensor : gguf.tensors()) {
      const loza::GgmlBlock block = loza::ggml_block(tensor.type);
      const std::size_t num_blocks =
          tensor.bytes.size() / static_cast<std::size_t>(block.num_bytes);
      std::vector<float> values(num_blocks * static_cast<std::size_t>(block.num_values));
      loza::dequantize(tensor.type, tensor.bytes, values);
    }
    const loza::GgufModel model = loza::map_gguf_model(gguf);
    if (model.tensors.size() > gguf.tensors().size()) std::abort();
    const auto vocab_size = model.config["vocab_size"].get<std::int64_t>();
    if (loza::map_gguf_tokenizer(gguf, vocab_size).tokenizer.dump().empty()) std::abort();
  } catch (const loza::Error& e) {
    if (e.code() != loza::ExitCode::kBadInput) std::abort();
  }
  return 0;
}
