#!/usr/bin/env python3
"""Times what PyTorch has for prefill: scaled_dot_product_attention and FlexAttention.

usage: bench/peers/torch_prefill.py [--tokens 65536] [--heads 16] [--sizes 192,128]

Needs a GPU, torch >= 2.6 and triton (`pip install torch`). One sequence, bf16, milliseconds of one
forward call: median of bursts of about 15 ms with rests between, as bench/prefill_cuda times. TF
counts the operations that the mask needs.
"""
import argparse
import math
import time

import torch
import torch.nn.functional as functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, flex_attention

BLOCK, SINK, RECENT = 128, 1, 7


def milliseconds(call):
    def run(count):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(count):
            call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / count

    run(2)
    count = max(1, int(15 / run(1)))
    times = []
    for _ in range(9):
        time.sleep(0.06)
        times.append(run(count))
    return sorted(times)[len(times) // 2]


def visible_pairs(tokens, streaming):
    total = 0
    for block in range(math.ceil(tokens / BLOCK)):
        rows = min(BLOCK, tokens - block * BLOCK)
        whole = min(block, SINK + RECENT - 1) if streaming else block
        total += rows * whole * BLOCK + rows * (rows + 1) // 2
    return total


def streaming_mask(tokens, device):
    """The ZigZag pattern as FlexAttention's lists of blocks: the own block masked, others whole."""
    num = tokens // BLOCK
    own = torch.arange(num, dtype=torch.int32, device=device)
    counts = torch.ones(num, dtype=torch.int32, device=device)
    whole = torch.zeros(num, num, dtype=torch.int32, device=device)
    whole_counts = torch.clamp(own, max=SINK + RECENT - 1)
    for block in range(num):
        seen = [b for b in range(block) if b < SINK or b > block - RECENT]
        whole[block, :len(seen)] = torch.tensor(seen, dtype=torch.int32)
    indices = torch.zeros(num, num, dtype=torch.int32, device=device)
    indices[:, 0] = own
    one = lambda x: x[None, None]
    return BlockMask.from_kv_blocks(one(counts), one(indices), one(whole_counts), one(whole),
                                    BLOCK_SIZE=BLOCK, mask_mod=lambda b, h, q, k: q >= k)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=65536)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--sizes", default="192,128")
    options = parser.parse_args()
    qk, v_size = map(int, options.sizes.split(","))
    tokens, heads = options.tokens, options.heads
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)
    print("| peer | ms | TF |", flush=True)

    def make(size):
        return torch.randn(1, heads, tokens, size, dtype=torch.bfloat16, device="cuda")

    q, k, v = make(qk), make(qk), make(v_size)
    scale = qk ** -0.5

    def report(name, streaming, call):
        try:
            ms = milliseconds(call)
        except Exception as error:  # a peer that does not take the sizes
            print(f"| {name} | {type(error).__name__}: {str(error).splitlines()[0][:90]} | |",
                  flush=True)
            return
        flops = 2 * heads * (qk + v_size) * visible_pairs(tokens, streaming)
        print(f"| {name} | {ms:.3f} | {flops / ms / 1e9:.0f} |", flush=True)

    @torch.no_grad()
    def sdpa(backend, values):
        with sdpa_kernel(backend):
            functional.scaled_dot_product_attention(q, k, values, is_causal=True, scale=scale)

    padded = functional.pad(v, (0, qk - v_size))
    report("sdpa cuDNN, causal", False, lambda: sdpa(SDPBackend.CUDNN_ATTENTION, v))
    report("sdpa flash, causal, values padded", False,
           lambda: sdpa(SDPBackend.FLASH_ATTENTION, padded))
    mask = streaming_mask(tokens, q.device)
    flex = torch.compile(flex_attention, dynamic=False)
    tuned = {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 8, "num_stages": 3}
    with torch.no_grad():
        report("FlexAttention, streaming", True,
               lambda: flex(q, k, v, block_mask=mask, scale=scale))
        report("FlexAttention, streaming, tuned", True,
               lambda: flex(q, k, v, block_mask=mask, scale=scale, kernel_options=tuned))


if __name__ == "__main__":
    main()
