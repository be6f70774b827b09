#include "loza/attention/on_hopper.h"

#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/torch.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "loza/attention/cuda/decode.h"
#include "loza/attention/cuda/merge.h"
#include "loza/attention/cuda/prefill.h"
#include "loza/attention/cuda/refusal.h"
#include "loza/base/check.h"
#include "loza/base/error.h"

namespace loza::attention::on_hopper {
namespace {

// LOZA_ATTENTION=libtorch leaves attention to libtorch's operations: to compare, or to rule a
// kernel out.
bool is_wanted() {
  static const bool wanted = [] {
    const char* value = std::getenv("LOZA_ATTENTION");
    const std::string by = value == nullptr ? "loza" : value;
    if (by != "loza" && by != "libtorch") {
      throw_usage("LOZA_ATTENTION", "loza or libtorch", by, "unset it, or take one of these");
    }
    return by == "loza";
  }();
  return wanted;
}

cuda::Status check_device(const at::Tensor& q) {
  const auto refuse = [](const std::string& got) {
    return cuda::failure(cuda::kUnsupported,
                         "the Hopper kernels need a GPU of compute capability 9.0, got %s",
                         got.c_str());
  };
  if (!q.is_cuda()) return refuse(q.device().str());
  if (!is_wanted()) return refuse("LOZA_ATTENTION=libtorch");
  int major = 0;
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, q.device().index()) !=
          cudaSuccess ||
      major != 9) {
    return refuse(q.device().str() + " of " + std::to_string(major) + ".x");
  }
  if (q.scalar_type() != at::kBFloat16 && q.scalar_type() != at::kHalf) {
    return cuda::failure(cuda::kUnsupported, "the Hopper kernels take bf16 and fp16, got %s",
                         c10::toString(q.scalar_type()));
  }
  return {};
}

// As the copy engine takes it: heads contiguous, everything at multiples of 16 bytes.
at::Tensor aligned(const at::Tensor& heads) {
  constexpr std::int64_t kElements = 8;
  const bool fits = heads.stride(2) == 1 && heads.stride(0) % kElements == 0 &&
                    heads.stride(1) % kElements == 0 && cuda::is_aligned(heads.data_ptr());
  return fits ? heads : heads.clone(at::MemoryFormat::Contiguous);
}

TensorView view_of_heads(const at::Tensor& heads) {
  if (!heads.defined()) return {};
  return {heads.data_ptr(), heads.stride(0), heads.stride(1)};
}

// What the two calls have in common.
struct Operands {
  at::Tensor q, sink_q, k, v;

  Operands(const Queries& queries, const at::Tensor& k, const at::Tensor& v)
      : q(aligned(queries.q)),
        sink_q(queries.sink_q.defined() ? aligned(queries.sink_q) : at::Tensor()),
        k(aligned(k)),
        v(aligned(v)) {}
};

ForwardParams sizes_of(const Queries& queries, const at::Tensor& k, const at::Tensor& v,
                       const BlockPattern& pattern, double scale) {
  ForwardParams params;
  params.dtype = dtype_of(queries.q.scalar_type());
  params.num_heads = queries.q.size(1);
  params.num_key_heads = k.size(1);
  params.qk_size = k.size(2);
  params.v_size = v.size(2);
  params.pattern = pattern;
  params.scale = scale;
  return params;
}

void expect_ok(const cuda::Status& status) { LOZA_CHECK(status.ok(), status.message); }

// Host arrays on the device. The tables and lengths of a step are the same for all modules: what
// was uploaded lately is found again by its contents. A stream has its own.
class RecentUploads {
 public:
  template <typename T>
  const T* on_device(const T* data, std::int64_t size, const c10::cuda::CUDAStream& stream) {
    const auto bytes = static_cast<std::size_t>(size) * sizeof(T);
    for (const Upload& upload : uploads_) {
      if (upload.stream == stream && upload.host.size() == bytes &&
          std::memcmp(upload.host.data(), data, bytes) == 0) {
        return static_cast<const T*>(upload.device.data_ptr());
      }
    }
    constexpr std::size_t kKept = 16;
    if (uploads_.size() == kKept) uploads_.erase(uploads_.begin());
    Upload upload{stream, std::vector<char>(bytes), at::Tensor()};
    std::memcpy(upload.host.data(), data, bytes);
    const auto on_host = at::from_blob(upload.host.data(), {static_cast<std::int64_t>(bytes)},
                                       at::TensorOptions(at::kChar));
    // Pageable memory has been read when this returns.
    upload.device = on_host.to(stream.device(), /*non_blocking=*/true);
    uploads_.push_back(std::move(upload));
    return static_cast<const T*>(uploads_.back().device.data_ptr());
  }

 private:
  struct Upload {
    c10::cuda::CUDAStream stream;
    std::vector<char> host;
    at::Tensor device;
  };
  std::vector<Upload> uploads_;
};

// A workspace is zero before its first use, and left zero for calls alike.
class DecodeWorkspaces {
 public:
  const at::Tensor& get(const DecodeParams& params, const cuda::DecodePlan& plan,
                        const c10::cuda::CUDAStream& stream) {
    const auto bytes = static_cast<std::int64_t>(cuda::decode_workspace_bytes(params, plan));
    for (const Entry& entry : entries_) {
      if (entry.stream == stream && entry.cluster_size == plan.cluster_size &&
          entry.num_clusters == plan.num_clusters && entry.space.numel() == bytes) {
        return entry.space;
      }
    }
    constexpr std::size_t kKept = 4;
    if (entries_.size() == kKept) entries_.erase(entries_.begin());
    const auto options = at::TensorOptions(at::kByte).device(stream.device());
    entries_.push_back({stream, plan.cluster_size, plan.num_clusters, at::zeros({bytes}, options)});
    return entries_.back().space;
  }

 private:
  struct Entry {
    c10::cuda::CUDAStream stream;
    int cluster_size, num_clusters;
    at::Tensor space;
  };
  std::vector<Entry> entries_;
};

DecodeParams decode_params(const Queries& queries, const PagedKvView& kv,
                           std::int64_t num_sequences, std::int64_t num_key_heads,
                           std::int64_t v_size, const BlockPattern& pattern, double scale) {
  DecodeParams params;
  params.num_sequences = num_sequences;
  params.q_len = num_sequences == 0 ? 1 : queries.q.size(0) / num_sequences;
  params.num_heads = queries.q.size(1);
  params.num_key_heads = num_key_heads;
  params.qk_size = queries.q.size(2);
  params.v_size = v_size;
  params.pattern = pattern;
  params.scale = scale;
  params.kv = kv;
  return params;
}

}  // namespace

cuda::Status check(const Queries& queries, const at::Tensor& k, const at::Tensor& v,
                   const BlockPattern& pattern, double scale) {
  const cuda::Status status = check_device(queries.q);
  return status.ok() ? cuda::check_sizes(sizes_of(queries, k, v, pattern, scale)) : status;
}

std::pair<at::Tensor, at::Tensor> attend_with_lse(const Queries& queries, const at::Tensor& k,
                                                  const at::Tensor& v, const Sequences& sequences,
                                                  const BlockPattern& pattern, double scale) {
  const at::NoGradGuard no_grad;
  const c10::cuda::CUDAGuard guard(queries.q.device());
  const Operands in(queries, k, v);
  const at::Tensor out = at::empty({in.q.size(0), in.q.size(1), v.size(2)}, in.q.options());
  const at::Tensor lse = at::empty({in.q.size(0), in.q.size(1)}, in.q.options().dtype(at::kFloat));
  ForwardParams params = sizes_of(queries, k, v, pattern, scale);
  params.num_sequences = sequences.size();
  params.q_offsets = sequences.q_offsets.data();
  params.k_offsets = sequences.k_offsets.data();
  if (!sequences.kept_prefix.empty()) params.kept_prefix = sequences.kept_prefix.data();
  if (!sequences.skipped.empty()) params.skipped = sequences.skipped.data();
  params.q = view_of_heads(in.q);
  params.sink_q = view_of_heads(in.sink_q);
  params.k = view_of_heads(in.k);
  params.v = view_of_heads(in.v);
  params.out = view_of_heads(out);
  params.lse = lse.data_ptr<float>();
  if (in.q.size(0) == 0) return {out, lse};
  expect_ok(cuda::prefill(params, {}, c10::cuda::getCurrentCUDAStream()));
  return {out, lse};
}

cuda::Status check_paged(const Queries& queries, const PagedKvView& kv, std::int64_t num_sequences,
                         std::int64_t num_key_heads, std::int64_t v_size,
                         const BlockPattern& pattern, double scale) {
  const cuda::Status status = check_device(queries.q);
  if (!status.ok()) return status;
  return cuda::check_sizes(
      decode_params(queries, kv, num_sequences, num_key_heads, v_size, pattern, scale));
}

at::Tensor attend_paged(const Queries& queries, const PagedKvView& kv, std::int64_t num_sequences,
                        std::int64_t num_key_heads, std::int64_t v_size,
                        const BlockPattern& pattern, double scale) {
  const c10::cuda::CUDAGuard guard(queries.q.device());
  const c10::cuda::CUDAStream stream = c10::cuda::getCurrentCUDAStream();
  thread_local RecentUploads uploads;
  PagedKvView on_device = kv;
  std::int64_t longest = 1;
  if (num_sequences > 0) {
    on_device.lengths = uploads.on_device(kv.lengths, num_sequences, stream);
    on_device.page_table =
        uploads.on_device(kv.page_table, num_sequences * kv.table_stride, stream);
    longest = *std::max_element(kv.lengths, kv.lengths + num_sequences);
  }
  // One plan while lengths grow to the next power of two.
  const auto max_length = std::bit_ceil(static_cast<std::uint64_t>(longest));
  return attend_paged_on_device(queries, on_device, num_sequences, num_key_heads, v_size, pattern,
                                scale, static_cast<std::int64_t>(max_length),
                                /*stable_prefix=*/false);
}

at::Tensor attend_paged_on_device(const Queries& queries, const PagedKvView& kv,
                                  std::int64_t num_sequences, std::int64_t num_key_heads,
                                  std::int64_t v_size, const BlockPattern& pattern, double scale,
                                  std::int64_t max_length, bool stable_prefix) {
  const at::NoGradGuard no_grad;
  const c10::cuda::CUDAGuard guard(queries.q.device());
  const c10::cuda::CUDAStream stream = c10::cuda::getCurrentCUDAStream();
  const at::Tensor q = aligned(queries.q);
  const at::Tensor sink_q = queries.sink_q.defined() ? aligned(queries.sink_q) : at::Tensor();
  const at::Tensor out = at::empty({q.size(0), q.size(1), v_size}, q.options());
  if (num_sequences == 0) return out;
  thread_local DecodeWorkspaces workspaces;
  DecodeParams params =
      decode_params(queries, kv, num_sequences, num_key_heads, v_size, pattern, scale);
  params.q = view_of_heads(q);
  params.sink_q = view_of_heads(sink_q);
  params.out = view_of_heads(out);
  const cuda::DecodePlan plan = cuda::plan_decode(params, max_length);
  const at::Tensor& workspace = workspaces.get(params, plan, stream);
  expect_ok(cuda::decode(
      params, plan, workspace.data_ptr(), static_cast<std::size_t>(workspace.numel()), stream,
      stable_prefix ? cuda::Inputs::kStablePrefix : cuda::Inputs::kFromPreviousKernel));
  return out;
}

cuda::Status check_merge(const at::Tensor& out) {
  const cuda::Status status = check_device(out);
  if (status.ok() && out.size(2) % 8 != 0) {
    return cuda::failure(cuda::kUnsupported, "cuda merge: V must be a multiple of 8, got %lld",
                         cuda::number(out.size(2)));
  }
  return status;
}

std::pair<at::Tensor, at::Tensor> merge(const at::Tensor& out_a, const at::Tensor& lse_a,
                                        const at::Tensor& out_b, const at::Tensor& lse_b) {
  const at::NoGradGuard no_grad;
  const c10::cuda::CUDAGuard guard(out_a.device());
  const at::Tensor a = aligned(out_a), b = aligned(out_b);
  const at::Tensor lse_of_a = lse_a.contiguous(), lse_of_b = lse_b.contiguous();
  const at::Tensor out = at::empty(a.sizes(), a.options()), lse = at::empty_like(lse_of_a);
  cuda::MergeParams params;
  params.dtype = dtype_of(a.scalar_type());
  params.num_tokens = a.size(0);
  params.num_heads = a.size(1);
  params.v_size = a.size(2);
  params.a = {view_of_heads(a), lse_of_a.data_ptr<float>()};
  params.b = {view_of_heads(b), lse_of_b.data_ptr<float>()};
  params.out = view_of_heads(out);
  params.lse = lse.data_ptr<float>();
  expect_ok(cuda::merge(params, c10::cuda::getCurrentCUDAStream()));
  return {out, lse};
}

}  // namespace loza::attention::on_hopper
