"""`loza convert --rope yarn` and `--rope-theta` against transformers, up to position 1,048,575."""

import json
import shutil
import subprocess

import pytest
import torch
from test_models import LOZA, TOLERANCE, load_model, loza_logits, random_ids, run_loza
from transformers import AutoModelForCausalLM, AutoTokenizer

LENGTH = 300
LAST = 1_048_576 - LENGTH
OLD, NEW = ("rope_theta", "rope_scaling"), ("rope_parameters",)


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def assert_equals_transformers(folder, tmp_path, first_position):
    ids = random_ids(first_position, LENGTH)
    model = load_model(folder).eval()
    with torch.no_grad():
        positions = torch.arange(LENGTH)[None] + first_position
        expected = model(torch.tensor([ids]), position_ids=positions, use_cache=False).logits[0]
    for decode in (0, 9):
        ours = loza_logits(folder, ids, tmp_path, "--dtype", "fp32", "--first-position",
                           first_position, "--decode", decode)
        assert (ours - expected).abs().max() <= TOLERANCE * expected.abs().max()
    return expected


@pytest.mark.parametrize("family", ["llama", "qwen3", "deepseek_v2", "deepseek_v3", "longcat_flash"])
def test_yarn_is_transformers(family, tmp_path):
    run_loza("make-tiny", tmp_path / "model", "--family", family, "--seed", 4)
    original = config_of(tmp_path / "model")["max_position_embeddings"]
    report = json.loads(run_loza("convert", tmp_path / "model", tmp_path / "long", "--rope", "yarn",
                                 "--factor", 1_048_576 / original, "--json"))
    assert report["max_position"] == 1_048_576
    scaled = assert_equals_transformers(tmp_path / "long", tmp_path, LAST)
    assert_equals_transformers(tmp_path / "long", tmp_path, 0)

    # Either spelling alone says the same.
    for name, dropped in [("new", OLD), ("old", NEW)]:
        config = config_of(tmp_path / "long")
        for key in dropped:
            del config[key]
        shutil.copytree(tmp_path / "model", tmp_path / name)
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        assert torch.equal(assert_equals_transformers(tmp_path / name, tmp_path, LAST), scaled)

    # Again, by another factor: of the original context, not of the stretched one. And back.
    run_loza("convert", tmp_path / "long", tmp_path / "longer", "--rope", "yarn", "--factor", 2)
    assert config_of(tmp_path / "longer")["max_position_embeddings"] == 2 * original
    run_loza("convert", tmp_path / "long", tmp_path / "back", "--rope", "yarn", "--factor", 1)
    ids = random_ids(1, LENGTH)
    assert torch.equal(loza_logits(tmp_path / "back", ids, tmp_path, "--dtype", "fp32"),
                       loza_logits(tmp_path / "model", ids, tmp_path, "--dtype", "fp32"))


def test_another_theta(tmp_path):
    run_loza("make-tiny", tmp_path / "model", "--family", "llama", "--seed", 4)
    run_loza("convert", tmp_path / "model", tmp_path / "other", "--rope-theta", 5e6)
    assert config_of(tmp_path / "other")["rope_theta"] == 5_000_000
    theirs = assert_equals_transformers(tmp_path / "other", tmp_path, 100_000)
    ids = random_ids(100_000, LENGTH)
    before = loza_logits(tmp_path / "model", ids, tmp_path, "--dtype", "fp32",
                         "--first-position", 100_000)
    assert (before - theirs).abs().max() > 0.01


@pytest.mark.parametrize("options", [
    ["--rope", "yarn"], ["--factor", "4"], ["--rope", "yarn", "--factor", "0.5"],
    ["--rope", "yarn", "--factor", "1e9"], ["--rope", "ntk", "--factor", "2"],
    ["--rope-theta", "1"], ["--rope-theta", "0"], ["--rope-theta", "-3"], [],
    ["--rope-of", "full"],
])
def test_bad_changes_are_refused(options, tmp_path):
    run_loza("make-tiny", tmp_path / "model", "--family", "llama", "--seed", 4)
    done = subprocess.run([LOZA, "convert", tmp_path / "model", tmp_path / "out", *options],
                          capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert not (tmp_path / "out").exists()


# RoPE by kind of module and a capped sink, against a Llama written out here with one explicit mask
# and one explicit rotation for each module.

BLOCK, SINK, RECENT = 16, 1, 3


def rotated(x, positions, frequencies, factor):
    """x [H, T, D], halves (i, i + D/2), by angle positions x frequencies."""
    angles = positions[:, None].double() * frequencies[None].double()
    cos, sin = (torch.cat([f(angles)] * 2, -1).float() * factor for f in (torch.cos, torch.sin))
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def explicit_llama(model, ids, streaming, full_rope, streaming_rope, capped):
    """Logits [T, vocab]. A rope is (frequencies, attention factor)."""
    weights, config = model.state_dict(), model.config
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    size = config.hidden_size // heads
    length = len(ids)
    place = torch.arange(length)
    block = place // BLOCK

    def norm(x, weight):
        return weight * x / (x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps).sqrt()

    causal = place[None, :] <= place[:, None]
    in_sink = (block < SINK)[None, :].expand(length, length)
    recent = block[None, :] >= block[:, None] - RECENT + 1
    gap = (block - RECENT + 1 - SINK).clamp(min=0) * BLOCK
    x = weights["model.embed_tokens.weight"][torch.tensor(ids)]
    for layer in range(config.num_hidden_layers):
        name = f"model.layers.{layer}."
        is_streaming = streaming[layer] == "1"
        frequencies, factor = streaming_rope if is_streaming else full_rope
        h = norm(x, weights[name + "input_layernorm.weight"])

        def project(which, count):
            return (h @ weights[f"{name}self_attn.{which}_proj.weight"].T).view(
                length, count, size).transpose(0, 1)

        q, k, v = project("q", heads), project("k", key_heads), project("v", key_heads)
        k = rotated(k, place, frequencies, factor).repeat_interleave(heads // key_heads, 0)
        v = v.repeat_interleave(heads // key_heads, 0)
        scores = rotated(q, place, frequencies, factor) @ k.transpose(1, 2)
        if is_streaming and capped:
            moved = rotated(q, place - gap, frequencies, factor) @ k.transpose(1, 2)
            scores = torch.where(in_sink & ~recent, moved, scores)
        visible = causal & (in_sink | recent) if is_streaming else causal
        attention = (scores / size**0.5).masked_fill(~visible, float("-inf")).softmax(-1) @ v
        x = x + attention.transpose(0, 1).reshape(length, -1) @ weights[
            name + "self_attn.o_proj.weight"].T
        h = norm(x, weights[name + "post_attention_layernorm.weight"])
        gate, up = (h @ weights[f"{name}mlp.{which}_proj.weight"].T for which in ("gate", "up"))
        x = x + (torch.nn.functional.silu(gate) * up) @ weights[name + "mlp.down_proj.weight"].T
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    return norm(x, weights["model.norm.weight"]) @ head.T


@pytest.mark.parametrize("rope_of", ["all", "full"])
@pytest.mark.parametrize("sink", ["absolute", "capped"])
def test_rope_by_kind_is_explicit_masks_and_rotations(rope_of, sink, tmp_path):
    run_loza("make-tiny", tmp_path / "model", "--family", "llama", "--seed", 5)
    original = config_of(tmp_path / "model")
    num_modules = original["num_hidden_layers"]
    gates = {"alpha": [i % 2 for i in range(num_modules)]}
    (tmp_path / "gates.json").write_text(json.dumps(gates))
    run_loza("convert", tmp_path / "model", tmp_path / "zigzag", "--gates", tmp_path / "gates.json",
             "--sparsity", 0.5, "--block-size", BLOCK, "--sink-blocks", SINK, "--recent-blocks",
             RECENT)
    report = json.loads(run_loza("convert", tmp_path / "zigzag", tmp_path / "long", "--rope",
                                 "yarn", "--factor", 8, "--rope-of", rope_of, "--sink", sink,
                                 "--json"))
    assert report["rope_by_kind"] == (rope_of == "full") and report["sink_distance"] == sink
    inspected = json.loads(run_loza("inspect", tmp_path / "long", "--json"))
    assert inspected["streaming_rope"]["scaling"] == ("none" if rope_of == "full" else "yarn")
    assert inspected["rope"]["scaling"] == "yarn"

    def rope_of_folder(folder):
        rotary = AutoModelForCausalLM.from_pretrained(folder).model.rotary_emb
        return rotary.inv_freq, rotary.attention_scaling

    ids = random_ids(7, LENGTH)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model").float().eval()
    stretched = rope_of_folder(tmp_path / "long")
    kept = rope_of_folder(tmp_path / "model") if rope_of == "full" else stretched
    streaming = config_of(tmp_path / "long")["streaming_sparse_attention"]["layer_type"]
    with torch.no_grad():
        expected = explicit_llama(model, ids, streaming, stretched, kept, sink == "capped")
    for decode in (0, 150):
        ours = loza_logits(tmp_path / "long", ids, tmp_path, "--dtype", "fp32", "--decode", decode)
        assert (ours - expected).abs().max() <= TOLERANCE * expected.abs().max()

    # Neither is what the plain model says, nor what the other sink says.
    for name, options in [("zigzag", []), ("other", ["--sink", "capped" if sink == "absolute"
                                                      else "absolute"])]:
        if options:
            run_loza("convert", tmp_path / "long", tmp_path / name, *options)
        other = loza_logits(tmp_path / name, ids, tmp_path, "--dtype", "fp32")
        assert (other - expected).abs().max() > 10 * TOLERANCE * expected.abs().max()

    # Training sees the same model: its first loss is that of the explicit one.
    text = tmp_path / "text.txt"
    text.write_text("A text to train on, which is longer than any window; " * 8)
    tokens = AutoTokenizer.from_pretrained(tmp_path / "model").encode(text.read_text())
    with torch.no_grad():
        logits = explicit_llama(model, tokens, streaming, stretched, kept, sink == "capped")
    run_loza("train", tmp_path / "long", tmp_path / "trained", "--data", text, "--length", 4096,
             "--steps", 1, "--dtype", "fp32")
    log = json.loads((tmp_path / "trained.run" / "log.jsonl").read_text().splitlines()[0])
    loss = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(tokens[1:]))
    assert log["loss"] == pytest.approx(loss.item(), rel=1e-4)

    # A gate would mix what two rotations make.
    done = subprocess.run([LOZA, "calibrate", tmp_path / "long", "--steps", "1"],
                          capture_output=True, text=True)
    refused = rope_of == "full" or sink == "capped"
    assert (done.returncode == 3 and "rotate alike" in done.stderr) == refused, done.stderr


def test_streaming_rope_needs_streaming_modules(tmp_path):
    run_loza("make-tiny", tmp_path / "model", "--family", "llama", "--seed", 4)
    done = subprocess.run([LOZA, "convert", tmp_path / "model", tmp_path / "out", "--sink",
                           "capped"], capture_output=True, text=True)
    assert done.returncode == 2 and "streaming modules" in done.stderr
    assert not (tmp_path / "out").exists()
