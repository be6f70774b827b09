"""Logits against transformers, for every family, on tiny random checkpoints made here.

Each case runs one sequence through transformers in fp32, with an explicit mask for each layer
where modules stream, and through `loza logits`: in one pass, or with its last tokens decoded
one by one through the KV caches. LOZA names the program."""

import collections
import json
import os
import pathlib
import subprocess

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers import (
    DeepseekV2Config,
    DeepseekV3Config,
    Glm4MoeLiteConfig,
    LlamaConfig,
    LongcatFlashConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOZA = os.environ.get("LOZA", str(ROOT / "build" / "loza"))

VOCAB = 256
NUM_LAYERS = 4
LENGTH = 2600
TOLERANCE = 2e-4  # of the largest logit
NUM_DECODED = 150

COMMON = dict(
    vocab_size=VOCAB,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=NUM_LAYERS,
    num_attention_heads=4,
    max_position_embeddings=4096,
    initializer_range=0.1,
    bos_token_id=0,
    eos_token_id=1,
)
GQA = dict(COMMON, num_key_value_heads=2)
MLA = dict(
    COMMON,
    num_key_value_heads=4,
    q_lora_rank=24,
    kv_lora_rank=32,
    qk_nope_head_dim=16,
    qk_rope_head_dim=8,
    v_head_dim=12,
    n_routed_experts=8,
    n_shared_experts=1,
    num_experts_per_tok=2,
    moe_intermediate_size=32,
    first_k_dense_replace=1,
)
# Two modules a layer, so half of the layers.
LONGCAT = dict(
    {key: value for key, value in COMMON.items()
     if key not in ("intermediate_size", "num_hidden_layers")},
    num_layers=NUM_LAYERS // 2,
    ffn_hidden_size=96,
    expert_ffn_hidden_size=32,
    q_lora_rank=24,
    kv_lora_rank=32,
    qk_nope_head_dim=16,
    qk_rope_head_dim=8,
    head_dim=8,
    v_head_dim=12,
    n_routed_experts=8,
    zero_expert_num=4,
    moe_topk=3,
    routed_scaling_factor=2.0,
)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=8.0, original_max_position_embeddings=512)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=10000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=512,
)
LINEAR = dict(rope_type="linear", rope_theta=50000.0, factor=2.0)
DEEPSEEK_YARN = dict(YARN, mscale=0.707, mscale_all_dim=0.5, beta_fast=16, beta_slow=2)

# (sizes, modules) as in config.json; SMALL leaves the sequence's middle many times, RELEASED is
# the pattern of released checkpoints.
SMALL = dict(sink_size=16, recent_size=48, sparsity=0.5, layer_type="0110", block_size=16)
RELEASED = dict(sink_size=128, recent_size=896, sparsity=0.75, layer_type="1011")

Case = collections.namedtuple("Case", "family name config plan decode old_rope")


def case(family, name, config, plan=None, decode=False, old_rope=False):
    return Case(family, name, config, plan, decode, old_rope)


def cases():
    llama = LlamaConfig(**GQA)
    llama3 = LlamaConfig(**GQA, tie_word_embeddings=True, rope_parameters=LLAMA3)
    biased = LlamaConfig(**GQA, attention_bias=True, mlp_bias=True, rope_parameters=YARN)
    qwen2 = Qwen2Config(**GQA, tie_word_embeddings=True)
    qwen2_linear = Qwen2Config(**GQA, rope_parameters=LINEAR)
    qwen3 = Qwen3Config(**GQA, head_dim=32, tie_word_embeddings=True)
    qwen3_yarn = Qwen3Config(**GQA, head_dim=16, attention_bias=True, rope_parameters=YARN)
    mistral = MistralConfig(**GQA, sliding_window=None, head_dim=24)
    v2 = DeepseekV2Config(
        **MLA,
        topk_method="group_limited_greedy",
        n_group=4,
        topk_group=2,
        routed_scaling_factor=4.0,
        rope_parameters=DEEPSEEK_YARN,
    )
    v2_lite = DeepseekV2Config(**dict(MLA, q_lora_rank=None, n_shared_experts=2))
    v2_dense = DeepseekV2Config(**dict(MLA, first_k_dense_replace=NUM_LAYERS))
    v3 = DeepseekV3Config(**dict(MLA, n_routed_experts=16), n_group=4, topk_group=2)
    v3_halves = DeepseekV3Config(
        **dict(MLA, q_lora_rank=None, first_k_dense_replace=2),
        n_group=1,
        topk_group=1,
        norm_topk_prob=False,
        rope_interleave=False,
        rope_parameters=DEEPSEEK_YARN,
    )
    glm = Glm4MoeLiteConfig(
        **{key: value for key, value in MLA.items() if key != "first_k_dense_replace"})
    glm_yarn = Glm4MoeLiteConfig(
        **dict(MLA, first_k_dense_replace=2),
        mlp_layer_types=["dense"] * 2 + ["sparse"] * (NUM_LAYERS - 2),
        n_group=4,
        topk_group=2,
        rope_parameters=YARN,
    )
    longcat = LongcatFlashConfig(**LONGCAT)
    longcat_yarn = LongcatFlashConfig(
        **dict(LONGCAT, n_routed_experts=6, zero_expert_num=0, moe_topk=6),
        rope_parameters=DEEPSEEK_YARN,
    )
    return [
        case("llama", "plain", llama),
        case("llama", "plain-small", llama, SMALL, decode=True),
        case("llama", "llama3-tied", llama3, old_rope=True),
        case("llama", "llama3-released", llama3, RELEASED, decode=True),
        case("llama", "yarn-biases", biased, decode=True),
        case("llama", "yarn-biases-small", biased, SMALL, old_rope=True),
        case("qwen2", "tied", qwen2, decode=True),
        case("qwen2", "tied-small", qwen2, SMALL),
        case("qwen2", "linear", qwen2_linear, old_rope=True),
        case("qwen2", "linear-released", qwen2_linear, RELEASED, decode=True),
        case("qwen3", "tied", qwen3, decode=True),
        case("qwen3", "tied-small", qwen3, SMALL, decode=True),
        case("qwen3", "yarn-biases", qwen3_yarn),
        case("qwen3", "yarn-biases-released", qwen3_yarn, RELEASED),
        case("mistral", "plain", mistral),
        case("mistral", "plain-small", mistral, SMALL),
        case("mistral", "plain-decode", mistral, decode=True),
        case("mistral", "plain-released", mistral, RELEASED, decode=True),
        case("deepseek_v2", "groups-yarn", v2, old_rope=True),
        case("deepseek_v2", "groups-yarn-small", v2, SMALL, decode=True),
        case("deepseek_v2", "lite", v2_lite, decode=True),
        case("deepseek_v2", "lite-released", v2_lite, RELEASED),
        case("deepseek_v2", "dense", v2_dense, SMALL, decode=True),
        case("deepseek_v3", "plain", v3, decode=True),
        case("deepseek_v3", "plain-small", v3, SMALL, decode=True),
        case("deepseek_v3", "halves-yarn", v3_halves),
        case("deepseek_v3", "halves-yarn-released", v3_halves, RELEASED, decode=True),
        case("glm4_moe_lite", "plain", glm, decode=True),
        case("glm4_moe_lite", "plain-small", glm, SMALL, decode=True),
        case("glm4_moe_lite", "yarn", glm_yarn, old_rope=True),
        case("glm4_moe_lite", "yarn-released", glm_yarn, RELEASED, decode=True),
        case("longcat_flash", "plain", longcat, decode=True),
        case("longcat_flash", "plain-small", longcat, SMALL, decode=True),
        case("longcat_flash", "yarn", longcat_yarn, old_rope=True),
        case("longcat_flash", "yarn-released", longcat_yarn, RELEASED, decode=True),
    ]


def make_model(config, seed):
    """A random model whose norms, biases and router corrections matter."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if "norm" in name:
            torch.nn.init.uniform_(tensor.data, 0.5, 1.5)
        elif name.endswith("router.e_score_correction_bias"):  # of scores that sum to 1
            torch.nn.init.normal_(tensor.data, std=0.03)
        elif name.endswith("bias"):
            torch.nn.init.normal_(tensor.data, std=0.2)
        elif name.endswith(("gate.weight", "classifier.weight")):
            torch.nn.init.normal_(tensor.data, std=0.3)
    return model


def load_model(folder, **options):
    """from_pretrained in fp32. transformers wants two of three matrices for LongCat-Flash's zero
    experts, which released checkpoints and ours do not have, and reads none of the layer's others
    where they are missing."""
    if json.loads((folder / "config.json").read_text())["model_type"] != "longcat_flash":
        return AutoModelForCausalLM.from_pretrained(folder, **options).float()
    model = AutoModelForCausalLM.from_pretrained(folder, ignore_mismatched_sizes=True, **options)
    tensors = load_file(folder / "model.safetensors")
    for layer_idx, layer in enumerate(model.model.layers):
        gate_ups = layer.mlp.experts.gate_up_proj.data.zero_()
        for expert in range(model.config.n_routed_experts):
            name = f"model.layers.{layer_idx}.mlp.experts.{expert}"
            gate_ups[expert] = torch.cat(
                [tensors[f"{name}.{part}_proj.weight"] for part in ("gate", "up")])
    return model.float()


def visible(plan, length):
    """method.md's rule, [length, length] bool."""
    block = plan.get("block_size", 128)
    sink = -(-plan["sink_size"] // block)
    recent = -(-plan["recent_size"] // block)
    pos = torch.arange(length)
    query, key = pos[:, None], pos[None, :]
    near = key // block >= query // block - recent + 1
    return (key <= query) & ((key // block < sink) | near)


def attention_modules(model):
    """In the order of the plan's characters."""
    for layer in model.model.layers:
        modules = layer.self_attn
        yield from modules if isinstance(modules, torch.nn.ModuleList) else [modules]


def reference_logits(model, plan, ids):
    hooks = []
    if plan is not None:
        hidden = torch.finfo(torch.float32).min
        mask = torch.zeros(len(ids), len(ids)).masked_fill(~visible(plan, len(ids)), hidden)

        def stream(module, args, kwargs):
            return args, dict(kwargs, attention_mask=mask[None, None])

        for module, kind in zip(attention_modules(model), plan["layer_type"]):
            if kind == "1":
                hooks.append(module.register_forward_pre_hook(stream, with_kwargs=True))
    with torch.set_grad_enabled(model.training):
        logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    for hook in hooks:
        hook.remove()
    return logits


def edit_config(folder, plan, old_rope):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if plan is not None:
        config["streaming_sparse_attention"] = plan
    if old_rope:
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        rope["type"] = rope.pop("rope_type")
        config["rope_scaling"] = None if rope["type"] == "default" else rope
    path.write_text(json.dumps(config))


def run_loza(*args):
    done = subprocess.run([LOZA, *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loza_logits(folder, ids, tmp_path, *options):
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    out = tmp_path / "logits.safetensors"
    run_loza("logits", folder, "--ids", tmp_path / "ids.json", "--out", out, *options)
    return load_file(out)["logits"]


def random_ids(seed, length=LENGTH):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCAB, (length,), generator=generator).tolist()


POSITIONS = collections.Counter()


@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case.family}-{case.name}")
def test_logits_match_transformers(case, tmp_path):
    seed = sum(map(ord, case.family + case.name))
    model = make_model(case.config, seed)
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    edit_config(folder, case.plan, case.old_rope)
    ids = random_ids(seed)
    expected = reference_logits(model, case.plan, ids)
    options = ["--decode", NUM_DECODED] if case.decode else []
    logits = loza_logits(folder, ids, tmp_path, "--dtype", "fp32", *options)

    assert logits.dtype == torch.float32 and logits.shape == expected.shape
    limit = TOLERANCE * expected.abs().max()
    error = (logits - expected).abs().max()
    assert error <= limit, f"error {error} at {(logits - expected).abs().argmax()}"
    best = expected.topk(2).values
    tie = best[:, 0] - best[:, 1] <= limit
    assert ((logits.argmax(-1) == expected.argmax(-1)) | tie).all()
    assert expected.std() > 0.1, "the model says nothing"
    POSITIONS[case.family] += len(ids)
    print(f"{case.family}-{case.name}: error {error / expected.abs().max():.1e} of the largest logit")


def test_enough_positions():
    """Counted where the whole file ran."""
    wanted = {case.family for case in cases()}
    if set(POSITIONS) != wanted:
        pytest.skip("a part of the cases ran")
    assert all(POSITIONS[family] >= 10_000 for family in wanted), POSITIONS


def test_masks_matter():
    """A streaming case that ignored its mask would fail."""
    model = make_model(LlamaConfig(**GQA), 0)
    ids = random_ids(0)
    dense, streaming = (reference_logits(model, plan, ids) for plan in (None, SMALL))
    assert (dense[:64] - streaming[:64]).abs().max() == 0
    assert (dense[64:] - streaming[64:]).abs().max() > 100 * TOLERANCE * dense.abs().max()


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**GQA),
        DeepseekV2Config(**dict(MLA, first_k_dense_replace=NUM_LAYERS)),
    ],
    ids=["llama", "deepseek_v2"],
)
def test_bf16_is_as_exact_as_transformers_bf16(config, tmp_path):
    """At most twice the error that transformers' own bf16 has against fp32."""
    model = make_model(config, 3)
    model.save_pretrained(tmp_path / "model")
    ids = random_ids(3, 600)
    exact = reference_logits(model, None, ids)
    theirs = (reference_logits(model.bfloat16(), None, ids).float() - exact).abs()
    for options in ([], ["--decode", 20]):
        logits = loza_logits(tmp_path / "model", ids, tmp_path, "--dtype", "bf16", *options)
        ours = (logits - exact).abs()
        assert ours.mean() <= 1.1 * theirs.mean() + 1e-6
        assert ours.max() <= 2 * theirs.max()


TINY = ["llama", "qwen2", "qwen3", "deepseek_v2", "deepseek_v2_dense", "deepseek_v3",
        "longcat_flash"]


@pytest.mark.parametrize("family", TINY)
def test_make_tiny_loads_in_transformers(family, tmp_path):
    folder = tmp_path / "model"
    run_loza("make-tiny", folder, "--family", family, "--seed", 7)
    _, info = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, ignore_mismatched_sizes=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert all("experts.gate_up_proj" in key[0] and family == "longcat_flash"  # see load_model
               for key in info["mismatched_keys"])
    model = load_model(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "The line of 1234 words: it is in the middle, and the end is near.\n"
    ids = tokenizer.encode(text, add_special_tokens=False)
    (tmp_path / "text.txt").write_text(text)
    tokenized = run_loza("tokenize", folder, "--text", tmp_path / "text.txt", "--json")
    assert json.loads(tokenized)["ids"] == ids
    expected = reference_logits(model.eval(), None, ids)
    logits = loza_logits(folder, ids, tmp_path, "--dtype", "fp32")
    assert (logits - expected).abs().max() <= TOLERANCE * expected.abs().max()
    assert 0.3 < expected.std() < 10
    assert (expected.softmax(-1).max(-1).values < 0.99).all(), "degenerate"


def test_make_tiny_gives_the_same_bytes(tmp_path):
    for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
        run_loza("make-tiny", tmp_path / name, "--family", "llama", "--seed", seed)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["config.json", "generation_config.json", "model.safetensors",
                     "tokenizer.json", "tokenizer_config.json"]
    for name in files:
        a, b = ((tmp_path / folder / name).read_bytes() for folder in "ab")
        assert a == b, name
    weights = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in "ac"]
    assert weights[0] != weights[1]


@pytest.mark.parametrize(
    "ids, says",
    [("[]", "token ids"), ("{}", "token ids"), ("[1, -1]", "element 1"), ("[256]", "element 0"),
     ("[1, 2.5]", "element 1"), ('["1"]', "element 0"), ("[1", "valid JSON"),
     ("[18446744073709551615]", "element 0")],
)
def test_bad_ids_are_refused(ids, says, tmp_path):
    folder = tmp_path / "model"
    model = make_model(LlamaConfig(**GQA), 0)
    model.save_pretrained(folder)
    (tmp_path / "ids.json").write_text(ids)
    done = subprocess.run(
        [LOZA, "logits", folder, "--ids", tmp_path / "ids.json", "--out", tmp_path / "out"],
        capture_output=True, text=True,
    )
    assert done.returncode == 3 and says in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()
