"""From text files to a trained model: scripts/train_tokenizer against transformers' reading of
what it writes, and the weights that `loza train --init` begins with against those that
transformers begins with. LOZA names the program."""

import json
import math
import random
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from test_models import LOZA, ROOT, run_loza
from test_tokenizer import SNIPPETS, SPACES, assert_same, loza_ids, random_string
from test_train import ROWS
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers import DeepseekV2Config, DeepseekV3Config, LlamaConfig, MistralConfig
from transformers import Qwen2Config, Qwen3Config

torch.set_num_threads(1)  # the models are small

VOCAB = 700
COMMON = dict(
    vocab_size=VOCAB,
    hidden_size=128,
    intermediate_size=160,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=512,
)
GQA = dict(COMMON, num_key_value_heads=2)
MLA = dict(
    COMMON,
    num_key_value_heads=4,
    q_lora_rank=48,
    kv_lora_rank=32,
    qk_nope_head_dim=32,
    qk_rope_head_dim=16,
    v_head_dim=32,
    n_routed_experts=4,
    num_experts_per_tok=2,
    moe_intermediate_size=64,
    first_k_dense_replace=1,
    n_group=2,
    topk_group=1,
)
CONFIGS = {
    "llama": LlamaConfig(**GQA, initializer_range=0.05, dtype="bfloat16"),
    "llama-biased": LlamaConfig(**GQA, attention_bias=True, mlp_bias=True, pad_token_id=3),
    "mistral": MistralConfig(**GQA, sliding_window=None, dtype="float16"),
    "qwen2": Qwen2Config(**GQA, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**GQA, tie_word_embeddings=True, pad_token_id=0),
    "deepseek_v2": DeepseekV2Config(**MLA),
    "deepseek_v3": DeepseekV3Config(**MLA, initializer_range=0.006),
}


def train_tokenizer(*args):
    return subprocess.run([sys.executable, ROOT / "scripts/train_tokenizer", *map(str, args)],
                          capture_output=True, text=True)


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """Enough for several hundred merges, with line ends of both kinds and other scripts."""
    folder = tmp_path_factory.mktemp("texts")
    rng = random.Random(7)
    (folder / "prose.txt").write_text((ROOT / "docs/design.md").read_text() * 2)
    (folder / "code.txt").write_bytes(
        "".join(random_string(rng) for _ in range(500)).encode() + b"x = 1\r\n\r\ny = 22\r\n" * 9)
    return [folder / "prose.txt", folder / "code.txt"]


@pytest.fixture(scope="session")
def tokenizer(texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "folder"
    done = train_tokenizer(folder, "--vocab-size", VOCAB - 60, *texts)
    assert done.returncode == 0, done.stderr
    assert f"{VOCAB - 60} ids" in done.stdout
    return folder


@pytest.fixture(scope="session")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_tokenizer_reads_alike(tokenizer):
    theirs = AutoTokenizer.from_pretrained(tokenizer)
    assert len(theirs) == VOCAB - 60
    assert theirs.eos_token == "<|endoftext|>"
    rng = random.Random(11)
    strings = ["", "a\x00b", *SNIPPETS, *SPACES] + [random_string(rng) for _ in range(5000)]
    ids = [theirs.encode(text, add_special_tokens=False) for text in strings]
    assert_same(strings, loza_ids(tokenizer, strings), ids)
    assert [theirs.decode(i) for i in ids] == strings
    assert len(theirs.encode("12345 678")) == 9


def test_tokenizer_gives_the_same_bytes(tokenizer, texts, tmp_path):
    train_tokenizer(tmp_path / "again", "--vocab-size", VOCAB - 60, *texts)
    for name in ["tokenizer.json", "tokenizer_config.json"]:
        assert (tmp_path / "again" / name).read_bytes() == (tokenizer / name).read_bytes()


def test_tokenizer_refuses(tokenizer, texts, tmp_path):
    (tmp_path / "latin").write_bytes(b"caf\xe9\n")
    for args, code, says in [
        ([tokenizer, *texts], 2, "expected a new or empty folder"),
        ([tmp_path / "out", tmp_path / "nothing"], 3, "expected a text file, got none"),
        ([tmp_path / "out", tmp_path / "latin"], 3, "latin: expected UTF-8"),
        ([tmp_path / "out", "--vocab-size", 256, *texts], 2, "--vocab-size: expected more than"),
    ]:
        done = train_tokenizer(*args)
        assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done.stderr
        assert says in done.stderr
    assert not list(tmp_path.glob("out*"))


def collect_text(folder, *options):
    subprocess.run([sys.executable, ROOT / "scripts/collect_text", folder, "--megabytes", "0.4",
                    *map(str, options)], check=True, capture_output=True)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_texts_to_train_on(tmp_path):
    files = collect_text(tmp_path / "a", "--without")
    assert collect_text(tmp_path / "b", "--without") == files
    lines, sizes = {}, {}
    for name in ["prose", "code", "prose-heldout", "code-heldout"]:
        text = files[f"{name}.txt"]
        sizes[name] = len(text)
        limit = 20e3 if "heldout" in name else 400e3
        assert 0.9 * limit < len(text) <= limit, name
        lines[name] = [line for line in text.decode().split("\n") if len(line.strip()) >= 40]
    for kind in ["prose", "code"]:
        train, held_out = set(lines[kind]), lines[f"{kind}-heldout"]
        assert len([line for line in held_out if line in train]) < 0.2 * len(held_out)
    assert "def " in files["code.txt"].decode() and "def " in files["code-heldout.txt"].decode()

    rows = [line.split("|")[1:-1] for line in files["sources.md"].decode().splitlines()[2:]]
    assert {row[0].strip() for row in rows} > {"python", "transformers", "torch"}
    assert not any(word in row[2] for row in rows for word in ["GPL", "MPL"])
    for kind, column in ("prose", 3), ("code", 4):
        total = sum(int(row[column]) for row in rows)
        assert total == sizes[kind] + sizes[f"{kind}-heldout"]

    # What was written once is left out of what is written next.
    known = [tmp_path / "a" / f"{kind}.txt" for kind in ("prose", "code")]
    other = collect_text(tmp_path / "c", "--without", *known)
    train = set(lines["prose"])
    again = [line for line in other["prose.txt"].decode().split("\n") if line in train]
    assert len(again) < 0.2 * len(train)


def begin(config, tokenizer, rows, folder, *options):
    """Writes the config, trains a step, and returns the folder of the model that it began with."""
    folder.mkdir(exist_ok=True)
    if isinstance(config, dict):
        (folder / "config.json").write_text(json.dumps(config))
    else:
        config.save_pretrained(folder)
    run_loza("train", "--init", folder / "config.json", "--tokenizer", tokenizer, folder / "out",
             "--data", rows, "--length", 64, "--batch", 2, "--steps", 1, "--dtype", "fp32", *options)
    return folder / "out.run/initial"


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_begin_as_transformers(name, tokenizer, rows, tmp_path):
    config = CONFIGS[name]
    dtype = config.dtype or torch.float32
    initial = begin(config, tokenizer, rows, tmp_path)
    model, info = AutoModelForCausalLM.from_pretrained(initial, output_loading_info=True)
    assert not any(info[kind] for kind in ["missing_keys", "unexpected_keys", "mismatched_keys"])
    assert model.config.eos_token_id == AutoTokenizer.from_pretrained(initial).eos_token_id == 0
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "theirs")
    theirs = load_file(tmp_path / "theirs/model.safetensors")
    ours = load_file(initial / "model.safetensors")
    assert ours.keys() == theirs.keys()

    num_random = 0
    for weight, tensor in ours.items():
        assert tensor.shape == theirs[weight].shape
        assert tensor.dtype == dtype
        ones_or_zeros = (theirs[weight] == theirs[weight].flatten()[0]).all()
        if ones_or_zeros:
            assert torch.equal(tensor.float(), theirs[weight].float()), weight
            continue
        tensor = tensor.double()
        if "embed_tokens" in weight and config.pad_token_id is not None:
            assert not tensor[config.pad_token_id].any()
            assert not theirs[weight][config.pad_token_id].any()
        filled = tensor[tensor.any(-1)] / config.initializer_range
        n = filled.numel()
        num_random += n
        # Five deviations of each estimate from a standard normal's own.
        assert filled.mean().item() == pytest.approx(0, abs=5 / math.sqrt(n)), weight
        assert filled.std().item() == pytest.approx(1, abs=5 / math.sqrt(2 * n)), weight
        assert (filled.abs() < 1).double().mean().item() == pytest.approx(0.6827, abs=2.4 / math.sqrt(n))
        assert filled.abs().max() > 2.5, weight
    assert num_random > 0.95 * sum(tensor.numel() for tensor in ours.values())


def test_seeds_and_tokenizers(tokenizer, rows, tmp_path):
    """A seed decides the weights; a tokenizer.json alone will do; without bos there is none."""
    config = CONFIGS["qwen2"]
    first = begin(config, tokenizer, rows, tmp_path / "a", "--seed", 1)
    again = begin(config, tokenizer / "tokenizer.json", rows, tmp_path / "b", "--seed", 1)
    other = begin(config, tokenizer, rows, tmp_path / "c", "--seed", 2)
    weights = [(f / "model.safetensors").read_bytes() for f in (first, again, other)]
    assert weights[0] == weights[1] != weights[2]
    assert len(AutoTokenizer.from_pretrained(again)) == VOCAB - 60
    for folder, eos in [(first, 0), (again, None)]:
        config = json.loads((folder / "config.json").read_text())
        assert (config["bos_token_id"], config["eos_token_id"]) == (None, eos)


def test_resumes_as_if_never_stopped(tokenizer, rows, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIGS["deepseek_v3"].to_diff_dict()))
    flags = ["--init", config, "--tokenizer", tokenizer, "--data", rows, "--length", 64, "--batch", 2,
             "--steps", 6, "--save-every", 2, "--dtype", "bf16"]
    run_loza("train", tmp_path / "whole", *flags)
    run_loza("train", tmp_path / "parts", *flags)
    for path in [tmp_path / "parts", tmp_path / "parts.run/step-00000006"]:
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    log = run_loza("train", tmp_path / "parts", "--resume", "--json", *flags)
    assert json.loads(log)["first_step"] == 4
    whole, parts = (tmp_path / name / "model.safetensors" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()


def test_refusals(tokenizer, rows, tmp_path):
    good = CONFIGS["qwen2"].to_diff_dict()
    (tmp_path / "empty").mkdir()

    def refusal(config, tokenizer, *options, folder="refused"):
        (tmp_path / "config.json").write_text(json.dumps(config))
        command = [LOZA, "train", "--init", tmp_path / "config.json", *options, tmp_path / folder,
                   "--data", rows, "--length", 64, "--steps", 1, "--batch", 1]
        command += ["--tokenizer", tokenizer] if tokenizer else []
        done = subprocess.run([*map(str, command)], capture_output=True, text=True)
        return done.returncode, done.stderr


    for config, tokens, code, says in [
        (good, None, 2, "--init requires --tokenizer"),
        (good, tmp_path / "empty", 3, "expected a folder with a tokenizer.json"),
        (good, tmp_path / "nothing", 3, "expected a readable file"),
        (dict(good, vocab_size=600), tokenizer, 3, "'vocab_size': expected at least 640"),
        (dict(good, model_type="gpt2"), tokenizer, 3, "'model_type': expected one of"),
        (dict(good, dtype="int8"), tokenizer, 3, "'dtype': expected one of"),
        (dict(good, pad_token_id=VOCAB), tokenizer, 3, "'pad_token_id': expected an integer"),
        (dict(good, initializer_range=-1), tokenizer, 3, "'initializer_range': expected a number"),
        ([good], tokenizer, 3, "expected a JSON object"),
    ]:
        got, stderr = refusal(config, tokens)
        assert got == code and says in stderr, stderr
        assert not list(tmp_path.glob("refused*"))
    got, stderr = refusal(good, tokenizer, tmp_path / "model")
    assert got == 2 and "expected one folder, the new one" in stderr

    assert refusal(good, tokenizer, folder="out")[0] == 0
    for file in (tmp_path / "out").iterdir():
        file.unlink()
    before = (tmp_path / "out.run/initial/model.safetensors").read_bytes()
    for changed in [dict(good, rope_theta=5e5), dict(good, initializer_range=0.03)]:
        got, stderr = refusal(changed, tokenizer, "--resume", folder="out")
        assert got == 2 and "another model" in stderr, stderr
    assert refusal(good, tokenizer, "--resume", "--seed", "1", folder="out")[0] == 2
    assert (tmp_path / "out.run/initial/model.safetensors").read_bytes() == before
    assert refusal(good, tokenizer, "--resume", folder="out")[0] == 0


def test_the_small_mla_model(tokenizer, rows, tmp_path):
    path = ROOT / "models/mla-7m/config.json"
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path.parent))
    num_parameters = sum(p.numel() for p in model.parameters())
    assert 7.0e6 < num_parameters < 7.2e6
    initial = begin(json.loads(path.read_text()), tokenizer, rows, tmp_path)
    assert sum(t.numel() for t in load_file(initial / "model.safetensors").values()) == num_parameters
