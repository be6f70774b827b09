#include "loza/model/transformer.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "loza/base/check.h"
#include "loza/base/error.h"
#include "loza/base/json.h"
#include "loza/model/attention_module.h"
#include "loza/model/elementwise.h"
#include "loza/model/families/families.h"
#include "loza/model/feed_forward.h"
#include "loza/model/linear.h"
#include "loza/model/recompute.h"
#include "loza/model/weights.h"

namespace loza {

// Everything is made in the order of the checkpoint's usual listing; Weights keeps the list.
struct Block {
  at::Tensor attention_norm;  // [hidden]
  std::unique_ptr<AttentionModule> attention;
  at::Tensor feed_forward_norm;  // [hidden]
  std::unique_ptr<FeedForward> feed_forward;
};

struct Layer {
  std::vector<Block> blocks;             // [modules_per_layer]
  std::unique_ptr<FeedForward> experts;  // beside the blocks, or null

  // x [T, hidden], the residual stream.
  at::Tensor run(at::Tensor x, const ForwardContext& context, double eps) const {
    at::Tensor experts_in;
    for (const Block& block : blocks) {
      x = block.attention->add(x, rms_norm(x, block.attention_norm, eps), context);
      const at::Tensor normed = rms_norm(x, block.feed_forward_norm, eps);
      if (experts != nullptr && !experts_in.defined()) experts_in = normed;
      x = block.feed_forward->add(x, normed);
    }
    return experts != nullptr ? experts->add(x, experts_in) : x;
  }
};

struct Transformer::Impl {
  ModelConfig config;
  at::ScalarType dtype;
  at::Device device;
  WeightFormat format;
  Ropes ropes;
  at::Tensor embedding;  // [vocab, hidden]
  std::vector<Layer> layers;
  at::Tensor final_norm;  // [hidden]
  Linear head;            // hidden -> vocab; of the embedding where tied
  NamedTensors parameters;
  std::int64_t num_parameters = 0;

  Impl(const ModelConfig& model_config, Weights& weights, at::ScalarType dtype, at::Device device);
};

namespace {

Layer make_layer(Weights& weights, const ModelConfig& config, const families::TensorNames& names,
                 std::int64_t layer_idx) {
  Layer layer;
  for (std::int64_t i = 0; i < config.modules_per_layer; ++i) {
    const auto name = [&](const std::string& pattern) {
      return fmt::format(fmt::runtime(pattern), layer_idx, i);
    };
    Block block;
    block.attention_norm = weights.take(name(names.attention_norm), {config.hidden_size});
    block.attention = make_attention(weights, name(names.attention), config,
                                     layer_idx * config.modules_per_layer + i);
    block.feed_forward_norm = weights.take(name(names.feed_forward_norm), {config.hidden_size});
    block.feed_forward = make_feed_forward(weights, name(names.feed_forward), config, layer_idx);
    layer.blocks.push_back(std::move(block));
  }
  if (config.moe && config.moe->beside_dense) {
    layer.experts =
        make_experts(weights, fmt::format(fmt::runtime(names.experts), layer_idx), config);
  }
  return layer;
}

Linear make_head(Weights& weights, const ModelConfig& config, const families::TensorNames& names,
                 const at::Tensor& embedding) {
  constexpr Linear::Use kUse = Linear::Use::kSensitive;
  if (config.tied_embeddings) return Linear(weights, embedding, kUse);
  return Linear(weights, weights.take(names.head, {config.vocab_size, config.hidden_size}), kUse);
}

// Tensors that checkpoints carry and a forward pass does not need.
class UnneededTensors {
 public:
  explicit UnneededTensors(const ModelConfig& config) {
    const families::TensorNames& names = families::family_of(config).names;
    if (config.tied_embeddings) names_.insert(names.head);
    if (!names.unneeded.empty()) prefixes_.push_back(names.unneeded);
    for (std::int64_t i = 0; i < config.num_draft_layers; ++i) {
      prefixes_.push_back(fmt::format("model.layers.{}.", config.num_layers + i));
    }
    if (config.moe && config.moe->num_zero_experts > 0) add_zero_experts(config, names.experts);
  }

  bool contain(const std::string& name) const {
    static const std::string kInverseFrequencies = ".rotary_emb.inv_freq";
    if (name.ends_with(kInverseFrequencies) || names_.count(name) != 0) return true;
    return std::any_of(prefixes_.begin(), prefixes_.end(),
                       [&](const std::string& prefix) { return name.starts_with(prefix); });
  }

 private:
  // transformers writes two of three matrices for them.
  void add_zero_experts(const ModelConfig& config, const std::string& experts) {
    for (std::int64_t layer = 0; layer < config.num_layers; ++layer) {
      const std::string name = fmt::format(fmt::runtime(experts), layer);
      for (std::int64_t e = config.moe->num_experts; e < config.moe->num_choices(); ++e) {
        names_.insert(fmt::format("{}.experts.{}.gate_proj.weight", name, e));
        names_.insert(fmt::format("{}.experts.{}.up_proj.weight", name, e));
      }
    }
  }

  std::set<std::string> names_;
  std::vector<std::string> prefixes_;
};

void refuse_extra_tensors(const Checkpoint& checkpoint, const std::set<std::string>& taken,
                          const ModelConfig& config) {
  const UnneededTensors unneeded(config);
  for (const auto& [name, entry] : checkpoint.tensors()) {
    if (taken.count(name) != 0 || unneeded.contain(name)) continue;
    throw_bad_input(
        checkpoint.folder().string(),
        fmt::format("only tensors of a {} with {} layers", config.family, config.num_layers),
        fmt::format("an extra tensor {}", quote_name(name)));
  }
}

void check_batch(const ForwardBatch& batch, const ModelConfig& config) {
  LOZA_CHECK((batch.core != nullptr) + (batch.kv != nullptr) + (batch.on_device != nullptr) == 1);
  LOZA_CHECK(batch.offsets.size() >= 2 && batch.offsets.front() == 0, batch.offsets.size());
  LOZA_CHECK(batch.ids.dim() == 1 && batch.offsets.back() == batch.ids.size(0),
             batch.offsets.back(), batch.ids.size(0));
  LOZA_CHECK(batch.positions.sizes() == batch.ids.sizes());
  LOZA_CHECK(!batch.places.defined() || batch.places.sizes() == batch.ids.sizes());
  LOZA_CHECK(batch.begin_layer >= 0 && batch.begin_layer <= config.num_layers, batch.begin_layer);
  LOZA_CHECK(batch.hidden.defined() || batch.begin_layer == 0, batch.begin_layer);
  if (batch.core != nullptr) return;
  LOZA_CHECK(batch.plan != nullptr);
  LOZA_CHECK(!batch.hidden.defined() && batch.layer_inputs == nullptr);
  LOZA_CHECK(batch.plan->num_modules() == config.num_modules(), batch.plan->num_modules());
  const std::size_t num_views =
      batch.kv != nullptr ? batch.kv->size() : batch.on_device->modules.size();
  LOZA_CHECK(static_cast<std::int64_t>(num_views) == config.num_modules(), num_views);
  LOZA_CHECK(batch.on_device == nullptr ||
                 static_cast<std::size_t>(batch.ids.size(0)) + 1 == batch.offsets.size(),
             batch.ids.size(0), batch.offsets.size());
}

}  // namespace

Transformer::Impl::Impl(const ModelConfig& model_config, Weights& weights, at::ScalarType dtype,
                        at::Device device)
    : config(model_config),
      dtype(dtype),
      device(device),
      format(weights.format()),
      ropes{Rope(config.rope, device), Rope(config.streaming_rope, device)} {
  const families::TensorNames& names = families::family_of(config).names;
  embedding = weights.take(names.embedding, {config.vocab_size, config.hidden_size});
  for (std::int64_t i = 0; i < config.num_layers; ++i) {
    layers.push_back(make_layer(weights, config, names, i));
  }
  final_norm = weights.take(names.final_norm, {config.hidden_size});
  head = make_head(weights, config, names, embedding);
  parameters = weights.parameters();
  num_parameters = weights.num_parameters();
}

Transformer Transformer::load(const Checkpoint& checkpoint, at::ScalarType dtype, at::Device device,
                              WeightFormat format) {
  LOZA_CHECK(format == WeightFormat::kDtype ||
             (device.is_cpu() && (dtype == at::kFloat || dtype == at::kBFloat16)));
  const at::NoGradGuard no_grad;
  const ModelConfig config =
      read_model_config(checkpoint.config(), (checkpoint.folder() / "config.json").string());
  // Once without memory, to see that every tensor is there and right.
  Weights check(checkpoint, dtype, at::kMeta, format);
  Impl(config, check, dtype, at::kMeta);
  refuse_extra_tensors(checkpoint, check.taken(), config);

  Weights weights(checkpoint, dtype, device, format);
  return Transformer(std::make_unique<Impl>(config, weights, dtype, device));
}

std::vector<ParameterShape> parameter_shapes(const ModelConfig& config) {
  Weights weights;
  const Transformer::Impl model(config, weights, at::kFloat, at::kMeta);
  std::vector<ParameterShape> shapes;
  for (const auto& [name, tensor] : model.parameters)
    shapes.push_back({name, tensor.sizes().vec()});
  return shapes;
}

Transformer::Transformer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Transformer::~Transformer() = default;
Transformer::Transformer(Transformer&&) noexcept = default;

const ModelConfig& Transformer::config() const { return impl_->config; }
at::ScalarType Transformer::dtype() const { return impl_->dtype; }
at::Device Transformer::device() const { return impl_->device; }
WeightFormat Transformer::weight_format() const { return impl_->format; }
NamedTensors Transformer::parameters() const { return impl_->parameters; }
std::int64_t Transformer::num_parameters() const { return impl_->num_parameters; }

at::Tensor Transformer::forward(const ForwardBatch& batch) const {
  check_batch(batch, impl_->config);
  // Pages are written in place; no gradient passes through them.
  std::optional<at::NoGradGuard> no_grad;
  if (batch.core == nullptr) no_grad.emplace();

  const double eps = impl_->config.norm_eps;
  // Layers that run again for their gradients still need it then.
  const auto context = std::make_shared<const ForwardContext>(batch, impl_->config, impl_->ropes);
  // [T, hidden], the residual stream
  at::Tensor x = batch.hidden.defined() ? batch.hidden : at::embedding(impl_->embedding, batch.ids);
  for (std::int64_t i = batch.begin_layer; i < impl_->config.num_layers; ++i) {
    const Layer& layer = impl_->layers[static_cast<std::size_t>(i)];
    if (batch.layer_inputs != nullptr) batch.layer_inputs->push_back(x);
    const auto run = [&layer, context, eps](const at::Tensor& in) {
      return layer.run(in, *context, eps);
    };
    x = batch.recompute ? recomputed(run, x) : run(x);
  }
  return rms_norm(x, impl_->final_norm, eps);
}

at::Tensor Transformer::logits(const at::Tensor& hidden) const { return impl_->head.wide(hidden); }

ForwardBatch ForwardBatch::whole(const std::vector<std::int64_t>& ids, AttentionCore& core) {
  return packed({ids}, core);
}

ForwardBatch ForwardBatch::packed(const std::vector<std::vector<std::int64_t>>& sequences,
                                  AttentionCore& core) {
  std::vector<at::Tensor> ids, positions;
  ForwardBatch batch;
  batch.offsets = {0};
  for (const auto& sequence : sequences) {
    const auto num_tokens = static_cast<std::int64_t>(sequence.size());
    ids.push_back(torch::tensor(sequence, at::kLong));
    positions.push_back(at::arange(num_tokens, at::kLong));
    batch.offsets.push_back(batch.offsets.back() + num_tokens);
  }
  batch.ids = at::cat(ids);
  batch.positions = at::cat(positions);
  batch.core = &core;
  return batch;
}

ForwardBatch ForwardBatch::on(at::Device device) const {
  ForwardBatch batch = *this;
  for (at::Tensor* tensor : {&batch.ids, &batch.positions, &batch.places, &batch.hidden}) {
    if (tensor->defined()) *tensor = tensor->to(device);
  }
  return batch;
}

at::Tensor PlannedCore::attend(std::int64_t module_idx, const attention::Queries& queries,
                               const at::Tensor& k, const at::Tensor& v,
                               const attention::Sequences& sequences, double scale) {
  return attention::attend(queries, k, v, sequences, pattern(module_idx), scale);
}

}  // namespace loza
