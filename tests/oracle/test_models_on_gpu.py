"""Whole models on a GPU, at the head sizes of real checkpoints: `loza logits --device cuda` in bf16,
with loza's own attention kernels and with libtorch's, against fp32 on the CPU. Needs a CUDA build."""

import json

import pytest
import torch
from transformers import DeepseekV2Config, LlamaConfig, Qwen3Config

import test_models
from test_models import loza_logits, make_model, random_ids

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

LAYERS, HIDDEN = 4, 576
COMMON = dict(vocab_size=test_models.VOCAB, hidden_size=HIDDEN, intermediate_size=768,
              num_hidden_layers=LAYERS, max_position_embeddings=4096, initializer_range=0.05,
              bos_token_id=0, eos_token_id=1)
RELEASED = dict(sink_size=128, recent_size=896, sparsity=0.5, layer_type="0110")
CONFIGS = {
    "gqa 64": LlamaConfig(**COMMON, num_attention_heads=9, num_key_value_heads=3, head_dim=64),
    "gqa 128": Qwen3Config(**COMMON, num_attention_heads=16, num_key_value_heads=2, head_dim=128),
    "mla 192/128": DeepseekV2Config(
        **COMMON, num_attention_heads=16, num_key_value_heads=16, q_lora_rank=None,
        kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128,
        n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2, moe_intermediate_size=64,
        first_k_dense_replace=LAYERS),
}


def divergence(logits, exact):
    """Mean KL in nats a token."""
    logits, exact = logits.double().log_softmax(-1), exact.double().log_softmax(-1)
    return (exact.exp() * (exact - logits)).sum(-1).mean().item()


@pytest.mark.parametrize("plan", [None, RELEASED], ids=["dense", "zigzag"])
@pytest.mark.parametrize("name", CONFIGS)
def test_kernels_change_nothing_that_bf16_does_not(name, plan, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    make_model(CONFIGS[name], 5).save_pretrained(folder)
    if plan is not None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) |
                                   {"streaming_sparse_attention": plan}))
    ids = random_ids(5, 3000)
    exact = loza_logits(folder, ids, tmp_path, "--dtype", "fp32")
    assert exact.std() > 0.1, "the model says nothing"
    for decoded in (0, 200):
        found, bits = {}, {}
        for by in ("loza", "libtorch"):
            monkeypatch.setenv("LOZA_ATTENTION", by)
            logits = loza_logits(folder, ids, tmp_path, "--dtype", "bf16", "--device", "cuda",
                                 "--decode", decoded)
            assert logits.isfinite().all(), by
            found[by], bits[by] = divergence(logits, exact), logits
        print(f"{name}, {decoded} decoded: KL {found}")
        assert found["loza"] <= 1.25 * found["libtorch"] + 1e-6
        assert found["libtorch"] < 0.02
    # Steps that are captured as CUDA graphs are the same steps.
    monkeypatch.setenv("LOZA_ATTENTION", "loza")
    monkeypatch.setenv("LOZA_CUDA_GRAPHS", "0")
    steps = loza_logits(folder, ids, tmp_path, "--dtype", "bf16", "--device", "cuda",
                        "--decode", decoded)
    assert torch.equal(bits["loza"], steps)
