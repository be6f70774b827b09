// Forward and backward: are they faster than libtorch's autograd?
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "bench/attention_cpu/cases.h"
#include "bench/attention_cpu/prompt.h"
#include "bench/attention_cpu/rounds.h"

namespace loza::bench {
namespace {

using Gradients = std::vector<at::Tensor>;

// The gradients that `out` gives to the prompt's tensors; out's own gradient is d_out.
Gradients gradients_of(const Prompt& prompt, const at::Tensor& out, const at::Tensor& d_out) {
  for (const at::Tensor* x : {&prompt.q, &prompt.k, &prompt.v}) x->mutable_grad() = at::Tensor();
  out.backward(d_out);
  return {prompt.q.grad(), prompt.k.grad(), prompt.v.grad()};
}

void check_gradients(const std::string& name, at::ScalarType dtype, const BlockPattern& pattern) {
  Sizes few = kExpanded;
  few.heads = few.key_heads = 1;
  Prompt prompt(few, kCheckedLen, dtype);
  Prompt exact = prompt.in_fp64();
  prompt.ask_for_gradients();
  exact.ask_for_gradients();
  const at::Tensor d_out = at::randn({kCheckedLen, 1, few.v_size}).to(dtype);
  const Gradients ours = gradients_of(prompt, prompt.ours(pattern), d_out);
  const Gradients expected = gradients_of(exact, exact.ours(pattern), d_out.to(at::kDouble));
  for (std::size_t i = 0; i < ours.size(); ++i) expect_close(name, ours[i], expected[i], dtype);
}

}  // namespace

void train(Report& report, const MachineRates& rates) {
  constexpr std::int64_t kLen = 4096;
  for (const BlockPattern& pattern : {BlockPattern::full(), BlockPattern{}}) {
    for (const at::ScalarType dtype : kBoth) {
      const std::string name =
          fmt::format("forward and backward {} 4K {}", name_of(pattern), name_of(dtype));
      if (!report.wants(name)) continue;
      check_gradients(name, dtype, pattern);
      Prompt prompt(kExpanded, kLen, dtype);
      Prompt padded = prompt.with_padded_values();
      prompt.ask_for_gradients();
      padded.ask_for_gradients();
      const at::Tensor mask = pattern.is_full() ? at::Tensor() : boolean_mask(pattern, kLen);
      const auto torch_way = [&mask](const Prompt& of) {
        const at::Tensor out = of.torch(mask);
        gradients_of(of, out, at::ones_like(out));
      };
      Rounds rounds;
      rounds.add("ours", [&] {
        const at::Tensor out = prompt.ours(pattern);
        gradients_of(prompt, out, at::ones_like(out));
      });
      rounds.add("forward alone", [&] {
        const at::NoGradGuard no_grad;
        prompt.ours(pattern);
      });
      rounds.add("torch", [&] { torch_way(prompt); });
      rounds.add("torch, padded values", [&] { torch_way(padded); });
      rounds.run(report.budget_s());
      Json& row = report.add(name);
      add_speed(row, rounds.seconds("ours"),
                forward_and_backward_work(kExpanded, pattern, kLen, dtype), dtype, rates);
      row["forward_ms"] = rounds.seconds("forward alone") * 1e3;
      row["torch_ms"] = rounds.seconds("torch") * 1e3;
      row["torch_padded_ms"] = rounds.seconds("torch, padded values") * 1e3;
      add_bar(row, "faster than torch's autograd over sdpa (the better of two)",
              std::min(rounds.ratio("torch", "ours"), rounds.ratio("torch, padded values", "ours")),
              pattern.is_full() ? 1.2 : 5);
    }
  }
}

}  // namespace loza::bench
