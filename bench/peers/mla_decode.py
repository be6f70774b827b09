#!/usr/bin/env python3
"""Times FlashMLA, FlashAttention-3 and FlashInfer on the cases of bench/decode_cuda.

usage: bench/peers/mla_decode.py [--only stream] [--peers flash_mla,flashinfer] [--limit-seconds 60]

    pip install vllm==0.22.1   # brings all three, built for torch 2.11 and CUDA 13

or each by itself: FlashMLA from source (github.com/deepseek-ai/FlashMLA, `pip install .`, needs
nvcc) and `pip install flashinfer-python`, which compiles its kernel at the first use. Whichever
is missing or fails costs its own rows alone.

A streaming case is for them a cache of the 1,024 keys that the pattern sees. Microseconds of one
call in a CUDA graph of calls on caches that rotate through three times the L2; what they plan for
each step on the host or in a kernel of their own (metadata) is timed apart. bf16, one query token.
Before a row is timed, the last sequence of its last call is compared with attention in fp32
(error: norm of the difference over norm of the reference; 2e-3 to 5e-3 is the rounding of bf16).
"""
import argparse
import importlib
import math
import time

import torch

from checked_rows import LARGEST_ERROR, cells_or_error, end_after

PAGE, KEY, VALUE = 64, 576, 512
ROTATION = 3 * 60 * 1024 * 1024
CASES = [  # name, sequences, heads, keys
    *[(f"stream B{b} h{h}", b, h, 1024) for b, h in
      [(1, 8), (1, 16), (1, 128), (8, 16), (8, 64), (8, 128), (32, 8), (32, 16), (32, 64),
       (32, 128), (128, 16)]],
    *[(f"full 128K B{b} h{h}", b, h, 131072) for b, h in
      [(1, 8), (1, 16), (1, 128), (32, 8), (32, 16), (32, 64), (32, 128)]],
]


def microseconds(calls):
    """Median of one call, from graphs of all calls in turn."""
    for call in calls[:2]:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    times, busy, replays = [], 0.0, 22
    while len(times) < replays:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        ms = begin.elapsed_time(end)
        if ms > 15:
            replays = 11
        times.append(1000 * ms / len(calls))
        busy += ms
        if busy > 20:
            time.sleep(0.1)
            busy = 0.0
    return sorted(times[2:])[len(times[2:]) // 2]


def host_microseconds(call):
    call()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(20):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - begin) / 20 * 1e6


class Case:
    def __init__(self, sequences, heads, keys):
        self.sequences, self.heads, self.keys = sequences, heads, keys
        pages = sequences * keys // PAGE
        cache_bytes = pages * PAGE * KEY * 2
        self.num_caches = max(1, math.ceil(ROTATION / cache_bytes))
        self.num_calls = max(20, min(400, self.num_caches))
        self.caches = torch.randn(self.num_caches, pages, PAGE, 1, KEY, dtype=torch.bfloat16,
                                  device="cuda")
        self.table = torch.randperm(pages, device="cuda").int().view(sequences, -1)
        self.queries = torch.randn(self.num_calls, sequences, 1, heads, KEY,
                                   dtype=torch.bfloat16, device="cuda")
        self.lengths = torch.full((sequences,), keys, dtype=torch.int32, device="cuda")
        self.starts = torch.arange(sequences + 1, dtype=torch.int32, device="cuda")
        self.scale = 192 ** -0.5

    def places(self):
        for i in range(self.num_calls):
            yield self.queries[i], self.caches[i % self.num_caches]

    def reference(self):
        """Of the last sequence in the last call, [heads, VALUE], in fp32."""
        q, cache = list(self.places())[-1]
        keys = cache[self.table[-1].long(), :, 0].reshape(self.keys, KEY).float()
        weights = torch.softmax(self.scale * q[-1, 0].float() @ keys.T, dim=-1)
        return weights @ keys[:, :VALUE]

    def error(self, out):
        got = out.reshape(self.sequences, self.heads, VALUE)[-1].float()
        want = self.reference()
        return ((got - want).norm() / want.norm()).item()


def installed(*names):
    """The first of these modules that can be imported."""
    problems = []
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            problems.append(str(error))
    raise ImportError("; ".join(problems))


def flash_mla(case):
    package = installed("flash_mla", "vllm.third_party.flashmla.flash_mla_interface")

    def metadata():
        # Two tensors, or (later versions) an object that the first call with it fills, and None.
        return package.get_mla_metadata(case.lengths, case.heads, 1)

    def attend(q, cache, tiles, splits):
        return package.flash_mla_with_kvcache(
            q, cache, case.table, case.lengths, VALUE, tiles, splits,
            softmax_scale=case.scale, causal=True)[0]

    tiles, splits = metadata()
    calls = [lambda q=q, cache=cache: attend(q, cache, tiles, splits)
             for q, cache in case.places()]

    def planning():
        if splits is not None:
            return host_microseconds(metadata)
        q, cache = next(case.places())
        known = host_microseconds(calls[0])
        return max(0.0, host_microseconds(lambda: attend(q, cache, *metadata())) - known)

    return calls, planning


def flash_attention_3(case):
    from vllm.vllm_flash_attn import flash_attn_varlen_func, get_scheduler_metadata

    def plan():
        return get_scheduler_metadata(
            batch_size=case.sequences, max_seqlen_q=1, max_seqlen_k=case.keys,
            num_heads_q=case.heads, num_heads_kv=1, headdim=KEY - VALUE, headdim_v=VALUE,
            cache_seqlens=case.lengths, cu_seqlens_q=case.starts, page_size=PAGE, causal=True)

    metadata = plan()

    def attend(q, cache):
        return flash_attn_varlen_func(
            q=q[:, 0, :, VALUE:], q_v=q[:, 0, :, :VALUE], k=cache[..., VALUE:],
            v=cache[..., :VALUE], max_seqlen_q=1, cu_seqlens_q=case.starts,
            max_seqlen_k=case.keys, seqused_k=case.lengths, block_table=case.table,
            softmax_scale=case.scale, causal=True, scheduler_metadata=metadata, fa_version=3)

    return ([lambda q=q, cache=cache: attend(q, cache) for q, cache in case.places()],
            lambda: host_microseconds(plan))


def flashinfer(case):
    from flashinfer.mla import BatchMLAPagedAttentionWrapper

    pages = case.keys // PAGE
    wrapper = BatchMLAPagedAttentionWrapper(
        torch.empty(256 << 20, dtype=torch.int8, device="cuda"), backend="fa3")

    def plan():
        wrapper.plan(case.starts, case.starts * pages, case.table.flatten(), case.lengths,
                     case.heads, VALUE, KEY - VALUE, PAGE, True, case.scale, torch.bfloat16,
                     torch.bfloat16)

    plan()

    def call(q, cache):
        q, cache = q[:, 0], cache[:, :, 0]
        parts = q[..., :VALUE], q[..., VALUE:], cache[..., :VALUE], cache[..., VALUE:]
        return lambda: wrapper.run(*parts)

    return ([call(q, cache) for q, cache in case.places()], lambda: host_microseconds(plan))


PEERS = {peer.__name__: peer for peer in (flash_mla, flash_attention_3, flashinfer)}


def row(case, peer):
    calls, planning = peer(case)
    error = case.error(calls[-1]())
    if not error < LARGEST_ERROR:
        return f"wrong | | {error:.1e}"
    return f"{microseconds(calls):.2f} | {planning():.0f} | {error:.1e}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--limit-seconds", type=int, default=0, help="end then, whatever is left")
    options = parser.parse_args()
    if options.limit_seconds:
        end_after(options.limit_seconds)
    begin = time.perf_counter()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    print("| case | peer | us | planning a step, us | error |", flush=True)
    for name, *sizes in CASES:
        if options.only not in name:
            continue
        case = Case(*sizes)
        for peer in options.peers.split(","):
            cells = cells_or_error(row, case, PEERS[peer])
            print(f"| {name} | {peer} | {cells} |", flush=True)
    print(f"{time.perf_counter() - begin:.0f} s in all")


if __name__ == "__main__":
    main()
