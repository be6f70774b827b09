#!/usr/bin/env python3
"""Times peers on prefill: PyTorch's attention, FlexAttention and FlashAttention-3.

usage: bench/peers/torch_prefill.py [--tokens 16384,65536,262144] [--heads 16] [--sizes 192,128]
                                    [--only causal] [--limit-seconds 60]

Needs a GPU, torch >= 2.6 and triton (`pip install torch`); FlashAttention-3 is taken from
`pip install vllm==0.22.1` (torch 2.11, CUDA 13) where that is installed. A peer that is missing or
fails costs its own row alone.

One sequence, bf16, milliseconds of one forward call: median of bursts of about 15 ms with rests
between, as bench/prefill_cuda times. TF counts the operations that the mask needs. Before a row is
timed, four query rows of every head are compared with attention in fp32 (error: norm of the
difference over norm of the reference; 2e-3 to 5e-3 is the rounding of bf16).
"""
import argparse
import time

import torch
import torch.nn.functional as functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from checked_rows import LARGEST_ERROR, cells_or_error, end_after

BLOCK, SINK, RECENT = 128, 1, 7
WINDOW = BLOCK * RECENT


def milliseconds(call):
    def run(count):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(count):
            call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / count

    once = run(1)
    count = max(1, int(15 / once))
    times = []
    for _ in range(9 if once < 100 else 3):
        time.sleep(0.06)
        times.append(run(count))
    return sorted(times)[len(times) // 2]


def seen(pattern, row):
    """First and last+1 of the key ranges that the query of this row sees."""
    if pattern == "window":
        return [(max(0, row + 1 - WINDOW), row + 1)]
    begin = max(0, row // BLOCK - RECENT + 1) * BLOCK
    if pattern == "causal" or begin <= SINK * BLOCK:
        return [(0, row + 1)]
    return [(0, SINK * BLOCK), (begin, row + 1)]


def visible_pairs(pattern, tokens):
    return sum(end - begin for row in range(tokens) for begin, end in seen(pattern, row))


def streaming_mask(tokens, device):
    """The ZigZag pattern as FlexAttention's lists of blocks: the own block masked, others whole."""
    num = tokens // BLOCK
    own = torch.arange(num, dtype=torch.int32)
    counts = torch.ones(num, dtype=torch.int32)
    whole = torch.zeros(num, num, dtype=torch.int32)
    whole_counts = torch.clamp(own, max=SINK + RECENT - 1)
    for block in range(num):
        others = [b for b in range(block) if b < SINK or b > block - RECENT]
        whole[block, :len(others)] = torch.tensor(others, dtype=torch.int32)
    indices = torch.zeros(num, num, dtype=torch.int32)
    indices[:, 0] = own
    one = lambda x: x[None, None].to(device)
    return BlockMask.from_kv_blocks(one(counts), one(indices), one(whole_counts), one(whole),
                                    BLOCK_SIZE=BLOCK, mask_mod=lambda b, h, q, k: q >= k)


class Problem:
    def __init__(self, tokens, heads, qk, v_size):
        def make(size):
            return torch.randn(1, heads, tokens, size, dtype=torch.bfloat16, device="cuda")

        self.tokens, self.heads, self.scale = tokens, heads, qk ** -0.5
        self.q, self.k, self.v = make(qk), make(qk), make(v_size)
        self.flops_of_pair = 2 * heads * (qk + v_size)

    def error(self, pattern, out):
        """out: [heads, tokens, at least v_size]."""
        got, want = [], []
        for row in (0, self.tokens // 3, self.tokens // 2 + 127, self.tokens - 1):
            for head in range(self.heads):
                k, v = (torch.cat([x[0, head, begin:end] for begin, end in seen(pattern, row)])
                        for x in (self.k, self.v))
                scores = self.scale * (k.float() @ self.q[0, head, row].float())
                want.append(torch.softmax(scores, dim=0) @ v.float())
                got.append(out[head, row, :v.shape[1]].float())
        got, want = torch.stack(got), torch.stack(want)
        # Rows differ in size by hundreds: each counts alike.
        return ((got - want).norm(dim=1) / want.norm(dim=1)).max().item()


# Of each peer: make(problem) gives a call whose result is [heads, tokens, v_size].
def sdpa(backend, pad):
    def make(problem):
        p = problem
        v = functional.pad(p.v, (0, p.q.shape[-1] - p.v.shape[-1])) if pad else p.v

        def call():
            with sdpa_kernel(backend):
                return functional.scaled_dot_product_attention(
                    p.q, p.k, v, is_causal=True, scale=p.scale)[0]

        return call

    return make


def flash_attention_3(window):
    def make(problem):
        from vllm.vllm_flash_attn import flash_attn_varlen_func

        q, k, v = (x[0].transpose(0, 1).contiguous() for x in (problem.q, problem.k, problem.v))
        starts = torch.tensor([0, problem.tokens], dtype=torch.int32, device="cuda")
        return lambda: flash_attn_varlen_func(
            q=q, k=k, v=v, max_seqlen_q=problem.tokens, cu_seqlens_q=starts,
            max_seqlen_k=problem.tokens, cu_seqlens_k=starts, softmax_scale=problem.scale,
            causal=True, window_size=window, num_splits=1, fa_version=3).transpose(0, 1)

    return make


def flex(options):
    def make(problem):
        mask = streaming_mask(problem.tokens, "cuda")
        compiled = torch.compile(flex_attention, dynamic=False)
        return lambda: compiled(problem.q, problem.k, problem.v, block_mask=mask,
                                scale=problem.scale, kernel_options=options)[0]

    return make


TUNED = {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 8, "num_stages": 3}
PEERS = [  # name, pattern, make; those that compile last
    ("FlashAttention-3, causal", "causal", flash_attention_3(None)),
    (f"FlashAttention-3, window of {WINDOW}, no sink", "window",
     flash_attention_3([WINDOW - 1, 0])),
    ("sdpa cuDNN, causal", "causal", sdpa(SDPBackend.CUDNN_ATTENTION, False)),
    ("sdpa flash, causal, values padded", "causal", sdpa(SDPBackend.FLASH_ATTENTION, True)),
    ("FlexAttention, streaming, tuned", "streaming", flex(TUNED)),
    ("FlexAttention, streaming", "streaming", flex(None)),
]


@torch.no_grad()
def row(problem, pattern, make):
    call = make(problem)
    error = problem.error(pattern, call())
    if not error < LARGEST_ERROR:
        return f"wrong | | {error:.1e}"
    ms = milliseconds(call)
    flops = problem.flops_of_pair * visible_pairs(pattern, problem.tokens)
    return f"{ms:.3f} | {flops / ms / 1e9:.0f} | {error:.1e}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", default="65536", help="one length or several, with commas")
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--sizes", default="192,128")
    parser.add_argument("--only", default="", help="peers whose name contains this")
    parser.add_argument("--limit-seconds", type=int, default=0, help="end then, whatever is left")
    options = parser.parse_args()
    if options.limit_seconds:
        end_after(options.limit_seconds)
    start = time.perf_counter()
    qk, v_size = map(int, options.sizes.split(","))
    lengths = list(map(int, options.tokens.split(",")))
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)
    print("| peer | tokens | ms | TF | error |", flush=True)
    for name, pattern, make in PEERS:
        for tokens in lengths if options.only in name else []:
            problem = Problem(tokens, options.heads, qk, v_size)
            cells = cells_or_error(row, problem, pattern, make)
            print(f"| {name} | {tokens} | {cells} |", flush=True)
    print(f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
