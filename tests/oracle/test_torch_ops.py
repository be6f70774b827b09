"""torch.ops.loza.* against plain torch: values, shapes of the meta kernels, torch's own checks of an
operator. LOZA_OPS names the library; on a CUDA build with a GPU its kernels are tested too."""

import os
import pathlib

import pytest
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
OPS = os.environ.get("LOZA_OPS", str(ROOT / "build" / "libloza_torch_ops.so"))
FULL = [128, 0, 1 << 24]
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])

if not pathlib.Path(OPS).exists():
    pytest.skip(f"no {OPS}", allow_module_level=True)
torch.ops.load_library(OPS)
ops = torch.ops.loza


def mask(pattern, queries, keys):
    block, sink, recent = pattern
    q, k = queries[:, None], keys[None, :]
    return (k <= q) & ((k // block < sink) | (k // block > q // block - recent))


def plain(q, k, v, pattern, scale, sink_q=None):
    """One sequence in fp64: out [T, H, V], lse [T, H]; the last query meets the last key."""
    q, k, v = (x.double().cpu() for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, 1) for x in (k, v))
    keys = torch.arange(k.shape[0])
    queries = keys[len(keys) - q.shape[0]:]
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    if sink_q is not None:
        block, sink, recent = pattern
        apart = (queries // block - recent + 1 > sink)[:, None] & (keys // block < sink)[None, :]
        by_sink = torch.einsum("qhd,khd->hqk", sink_q.double().cpu(), k) * scale
        scores = torch.where(apart, by_sink, scores)
    scores = scores.masked_fill(~mask(pattern, queries, keys), float("-inf"))
    lse = scores.logsumexp(-1)
    return torch.einsum("hqk,khd->qhd", (scores - lse[..., None]).exp(), v), lse.T


def close(got, want, dtype):
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(got.double().cpu(), want, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pattern", [[128, 1, 2], FULL])
@pytest.mark.parametrize("sink", [False, True])
def test_attend(device, dtype, pattern, sink):
    torch.manual_seed(1)
    q, sink_q = (torch.randn(750, 4, 192, dtype=dtype, device=device) for _ in range(2))
    k = torch.randn(800, 2, 192, dtype=dtype, device=device)
    v = torch.randn(800, 2, 128, dtype=dtype, device=device)
    out, lse = ops.attend(q, k, v, [0, 700, 750], [0, 700, 800], pattern, 0.07,
                          sink_q if sink else None)
    for begin, end, k_begin, k_end in [(0, 700, 0, 700), (700, 750, 700, 800)]:
        want, want_lse = plain(q[begin:end], k[k_begin:k_end], v[k_begin:k_end], pattern, 0.07,
                               sink_q[begin:end] if sink else None)
        close(out[begin:end], want, dtype)
        torch.testing.assert_close(lse[begin:end].double().cpu(), want_lse, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("key_heads, size, v_size", [(2, 128, 128), (1, 576, 512)])
@pytest.mark.parametrize("pattern", [[128, 1, 2], FULL])
def test_attend_paged(device, key_heads, size, v_size, pattern):
    torch.manual_seed(2)
    dtype = torch.bfloat16
    latent = size != v_size
    row = size if latent else key_heads * (size + v_size)
    pages = torch.randn(30, 64, row, dtype=dtype, device=device)
    table = torch.randperm(30, device=device).int().view(2, 15).contiguous()
    lengths = torch.tensor([900, 130], device=device)
    q = torch.randn(4, 8, size, dtype=dtype, device=device)  # two tokens a sequence
    v_offset = 0 if latent else key_heads * size
    out = ops.attend_paged(q, pages, table, lengths, key_heads, v_size, v_offset, pattern, 0.07,
                           1024)
    for b, length in enumerate(lengths.tolist()):
        rows = pages[table[b].long()].view(-1, row)[:length]
        k = rows[:, :key_heads * size].view(length, key_heads, size)
        v = (rows[:, :v_size] if latent else rows[:, v_offset:]).reshape(length, key_heads, v_size)
        want, _ = plain(q[2 * b:2 * b + 2], k, v, pattern, 0.07)
        close(out[2 * b:2 * b + 2], want, dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merge(device, dtype):
    torch.manual_seed(3)
    q = torch.randn(50, 4, 64, dtype=dtype, device=device)
    k, v = (torch.randn(300, 4, 64, dtype=dtype, device=device) for _ in range(2))
    want, want_lse = plain(q, k, v, FULL, 0.125)
    parts = []
    for keys in [slice(0, 250), slice(250, 300)]:  # the first part is seen whole by every query
        if keys.start == 0:
            score = torch.einsum("qhd,khd->hqk", q.double(), k[keys].double()) * 0.125
            lse = score.logsumexp(-1)
            out = torch.einsum("hqk,khd->qhd", (score - lse[..., None]).exp(), v[keys].double())
            parts.append((out.to(dtype), lse.T.float().contiguous()))
        else:
            parts.append(ops.attend(q, k[keys], v[keys], [0, 50], [0, 50], FULL, 0.125))
    out, lse = ops.merge(*parts[0], *parts[1])
    close(out, want, dtype)
    torch.testing.assert_close(lse.double().cpu(), want_lse, atol=2e-3, rtol=1e-4)
    nothing = (torch.full_like(parts[0][0], float("nan")),
               torch.full_like(parts[0][1], float("-inf")))
    out, lse = ops.merge(*nothing, *parts[0])
    torch.testing.assert_close(out, parts[0][0])
    torch.testing.assert_close(lse, parts[0][1])


def test_meta_kernels_and_torch_own_checks():
    q, k = torch.randn(40, 4, 64), torch.randn(60, 2, 64)
    v = torch.randn(60, 2, 32)
    out, lse = ops.attend(q.to("meta"), k.to("meta"), v.to("meta"), [0, 40], [0, 60], FULL, 0.1)
    assert out.shape == (40, 4, 32) and lse.shape == (40, 4) and lse.dtype == torch.float32
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(ops.attend, (q, k, v, [0, 40], [0, 60], FULL, 0.1), test_utils=tests)
    pages, table = torch.randn(4, 64, 256), torch.arange(4, dtype=torch.int32).view(1, 4)
    torch.library.opcheck(
        ops.attend_paged, (q[:1], pages, table, torch.tensor([200]), 2, 64, 128, FULL, 0.1, 256),
        test_utils=tests)
    pair = torch.randn(5, 3, 16), torch.randn(5, 3)
    torch.library.opcheck(ops.merge, (*pair, *pair), test_utils=tests)


def test_compiles():
    q = torch.randn(40, 4, 64)

    def call(x):
        return ops.attend(x * 2, x, x, [0, 40], [0, 40], FULL, 0.1)[0] + 1

    torch.testing.assert_close(torch.compile(call, backend="aot_eager")(q), call(q))


def test_refusals_say_what_is_expected():
    q = torch.randn(4, 2, 64)
    with pytest.raises(RuntimeError, match="pattern"):
        ops.attend(q, q, q, [0, 4], [0, 4], [128, 1], 0.1)
