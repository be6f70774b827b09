#!/usr/bin/env python3
"""Times FlashMLA and FlashInfer on the cases of bench/decode_cuda, whichever are installed.

usage: bench/peers/mla_decode.py [--only stream]

FlashMLA:   pip install git+https://github.com/deepseek-ai/FlashMLA   (compiles, needs nvcc)
FlashInfer: pip install flashinfer-python

A streaming case is for them a cache of the 1,024 keys that the pattern sees. Microseconds of one
call in a CUDA graph of calls on caches that rotate through three times the L2; what they plan for
each step on the host or in a kernel of their own (metadata) is timed apart. bf16, one query token.
"""
import argparse
import math
import time

import torch

PAGE, KEY, VALUE = 64, 576, 512
ROTATION = 3 * 60 * 1024 * 1024
CASES = [  # name, sequences, heads, keys
    *[(f"stream B{b} h{h}", b, h, 1024) for b, h in
      [(1, 8), (1, 16), (8, 16), (32, 8), (32, 16), (32, 64), (32, 128), (128, 16)]],
    *[(f"full 128K B{b} h{h}", b, h, 131072) for b, h in
      [(1, 8), (1, 16), (32, 8), (32, 16), (32, 64), (32, 128)]],
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
    times, busy = [], 0.0
    for _ in range(22):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        ms = begin.elapsed_time(end)
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
        self.scale = 192 ** -0.5

    def places(self):
        for i in range(self.num_calls):
            yield self.queries[i], self.caches[i % self.num_caches]


def flash_mla(case):
    from flash_mla import flash_mla_with_kvcache, get_mla_metadata

    def plan():
        return get_mla_metadata(case.lengths, case.heads, 1)

    metadata, splits = plan()

    def call(q, cache):
        return lambda: flash_mla_with_kvcache(
            q, cache, case.table, case.lengths, VALUE, metadata, splits,
            softmax_scale=case.scale, causal=True)

    return [call(q, cache) for q, cache in case.places()], plan


def flashinfer(case):
    from flashinfer.mla import BatchMLAPagedAttentionWrapper

    pages = case.keys // PAGE
    wrapper = BatchMLAPagedAttentionWrapper(
        torch.empty(256 << 20, dtype=torch.int8, device="cuda"), backend="fa3")
    steps = torch.arange(case.sequences + 1, dtype=torch.int32, device="cuda")

    def plan():
        wrapper.plan(steps, steps * pages, case.table.flatten(), case.lengths, case.heads, VALUE,
                     KEY - VALUE, PAGE, True, case.scale, torch.bfloat16, torch.bfloat16)

    plan()

    def call(q, cache):
        q, cache = q[:, 0], cache[:, :, 0]
        parts = q[..., :VALUE], q[..., VALUE:], cache[..., :VALUE], cache[..., VALUE:]
        return lambda: wrapper.run(*parts)

    return [call(q, cache) for q, cache in case.places()], plan


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    print("| case | peer | us | planning a step, us |", flush=True)
    for name, *sizes in CASES:
        if options.only not in name:
            continue
        case = Case(*sizes)
        for peer in (flash_mla, flashinfer):
            try:
                calls, plan = peer(case)
                print(f"| {name} | {peer.__name__} | {microseconds(calls):.2f} | "
                      f"{host_microseconds(plan):.0f} |", flush=True)
            except Exception as error:
                print(f"| {name} | {peer.__name__} | {type(error).__name__}: "
                      f"{(str(error).splitlines() or [''])[0][:80]} | |", flush=True)


if __name__ == "__main__":
    main()
