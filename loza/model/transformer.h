#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loza/attention/attention.h"
#include "loza/checkpoint/checkpoint.h"
#include "loza/model/config.h"
#include "loza/model/device_step.h"
#include "loza/model/plan.h"
#include "loza/model/weights.h"

namespace loza {

// What a module's queries, keys and values become. The seam between model and calibration:
// the model calls one, and never learns which.
class AttentionCore {
 public:
  virtual ~AttentionCore() = default;
  // As what a module is rotated: full or streaming.
  virtual BlockPattern pattern(std::int64_t module_idx) const = 0;
  // queries [T, H, D], k [T, G, D], v [T, G, V] of whole sequences, rotated, in the compute dtype
  // -> [T, H, V]. Differentiable where autograd is on.
  virtual at::Tensor attend(std::int64_t module_idx, const attention::Queries& queries,
                            const at::Tensor& k, const at::Tensor& v,
                            const attention::Sequences& sequences, double scale) = 0;
};

// Runs each module under its pattern.
class PlannedCore : public AttentionCore {
 public:
  explicit PlannedCore(AttentionPlan plan) : plan_(std::move(plan)) {}
  const AttentionPlan& plan() const { return plan_; }
  BlockPattern pattern(std::int64_t module_idx) const override {
    return plan_.patterns[static_cast<std::size_t>(module_idx)];
  }
  at::Tensor attend(std::int64_t module_idx, const attention::Queries& queries, const at::Tensor& k,
                    const at::Tensor& v, const attention::Sequences& sequences,
                    double scale) override;

 private:
  AttentionPlan plan_;
};

// Sequences to run, packed one after the other. Exactly one of `core`, `kv` and `on_device` is set:
//   core  whole sequences, no cache: training, calibration, scoring;
//   kv    the tokens continue what the pages hold; their own rows are written there. The
//         plan's pattern of each module is used. Sequences of at most kMaxDecodeTokens tokens
//         that are all of one length decode over the pages; others prefill: visible rows are
//         gathered, MLA expands its latents;
//   on_device  one token a sequence decodes over the pages, as with kv, but nothing of the pass
//         depends on the host (device_step.h). REQUIRES: attention::can_attend_on_device() for
//         every module, and no experts.
struct ForwardBatch {
  static constexpr std::int64_t kMaxDecodeTokens = 8;

  at::Tensor ids;        // [T] int64
  at::Tensor positions;  // [T] int64, what RoPE rotates by
  // [T] int64, by which streaming modules with a RoPE of their own rotate: each token's place in
  // its sequence. Absent where it is the position.
  at::Tensor places;
  std::vector<std::int64_t> offsets;  // [B+1] from 0 to T
  AttentionCore* core = nullptr;
  const AttentionPlan* plan = nullptr;           // with kv or on_device
  const std::vector<PagedKvView>* kv = nullptr;  // [modules]; lengths include the new tokens
  const DeviceStep* on_device = nullptr;

  // With core and autograd: keep each layer's input alone, and run layers again for gradients.
  bool recompute = false;

  // With core, a pass may begin between two layers, and be looked at there.
  std::int64_t begin_layer = 0;
  at::Tensor hidden;  // [T, hidden], what layer begin_layer reads; absent: the embedded ids
  std::vector<at::Tensor>* layer_inputs = nullptr;  // receives what each layer run has read

  // One whole sequence from position 0, without a cache.
  static ForwardBatch whole(const std::vector<std::int64_t>& ids, AttentionCore& core);
  // Several, which do not see each other, each from position 0.
  static ForwardBatch packed(const std::vector<std::vector<std::int64_t>>& sequences,
                             AttentionCore& core);

  // The same with its tensors on a device.
  ForwardBatch on(at::Device device) const;
};

// "cpu", "cuda" or "cuda:N". Throws Error(kUsage), also where there is no such device.
at::Device parse_device(const std::string& text);

// The dtype that the device computes fast: bf16 on GPUs and on processors with bf16 dot products,
// else fp32.
at::ScalarType auto_dtype(at::Device device = at::kCPU);
// "fp32", "bf16" or "auto". Throws Error(kUsage).
at::ScalarType parse_dtype(const std::string& text, at::Device device = at::kCPU);

// One weight of a checkpoint.
struct ParameterShape {
  std::string name;
  std::vector<std::int64_t> shape;
};

// What a checkpoint of such a model holds, in the order of Transformer::parameters().
std::vector<ParameterShape> parameter_shapes(const ModelConfig& config);

// A decoder-only model: weights and the forward pass, for training and serving alike.
// forward() is const and thread-safe where autograd is off.
class Transformer {
 public:
  // Loads every tensor that the family names; a missing one, an extra one or a wrong shape is
  // an Error(kBadInput), found before anything large is allocated.
  // With int8 weights (weights.h) the model is not to be trained. REQUIRES then: the CPU, and
  // fp32 or bf16.
  static Transformer load(const Checkpoint& checkpoint, at::ScalarType dtype,
                          at::Device device = at::kCPU, WeightFormat format = WeightFormat::kDtype);
  ~Transformer();
  Transformer(Transformer&&) noexcept;

  const ModelConfig& config() const;
  at::ScalarType dtype() const;
  at::Device device() const;
  WeightFormat weight_format() const;

  // Hidden states after the final norm: [T, hidden], compute dtype.
  at::Tensor forward(const ForwardBatch& batch) const;
  // hidden [N, hidden] -> logits [N, vocab] fp32 (fp64 of an fp64 model). Ask only for the rows
  // that are needed.
  at::Tensor logits(const at::Tensor& hidden) const;

  // Every weight with its checkpoint name, in a fixed order, but for those kept in int8. Shared
  // storage, not copies; requires_grad is false until a caller sets it.
  NamedTensors parameters() const;
  std::int64_t num_parameters() const;

 private:
  friend std::vector<ParameterShape> parameter_shapes(const ModelConfig& config);
  struct Impl;
  explicit Transformer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Writes a small random checkpoint of a family, with its tokenizer, that transformers loads.
// The same seed gives the same bytes. Throws Error(kUsage) for an unknown family, or when the
// target has files already.
void make_tiny(const std::string& family, const std::filesystem::path& target, std::uint64_t seed);

// The families that make_tiny knows.
std::vector<std::string> tiny_families();

}  // namespace loza
