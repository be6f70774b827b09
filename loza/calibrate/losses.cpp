#include "loza/calibrate/losses.h"

#include <torch/torch.h>

#include "loza/base/error.h"
#include "loza/train/lm_loss.h"

namespace loza {

AnswerRows answer_rows(const TokenizedDocument& document, at::Device device) {
  const Targets targets = targets_at(document, marked_positions(document.is_answer));
  if (targets.rows.empty()) {
    throw_bad_input("calibration document", "tokens of an answer to learn from", "none");
  }
  return {torch::tensor(targets.rows, at::kLong).to(device),
          torch::tensor(targets.ids, at::kLong).to(device)};
}

at::Tensor answer_hidden(const Transformer& model, const TokenizedDocument& document,
                         const AnswerRows& answers, AttentionCore& core) {
  return model.forward(ForwardBatch::whole(document.ids, core).on(model.device()))
      .index_select(0, answers.rows);
}

at::Tensor distill_loss(const at::Tensor& hidden, const at::Tensor& teacher) {
  const auto dtype = at::promote_types(at::kFloat, hidden.scalar_type());
  return (hidden.to(dtype) - teacher.to(dtype)).square().mean();
}

at::Tensor lm_loss(const Transformer& model, const at::Tensor& hidden, const at::Tensor& targets) {
  return token_nll(model, hidden, targets).mean();
}

}  // namespace loza
