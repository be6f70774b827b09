"""GGUF import against the `gguf` package and transformers, on small files written here: the
same numbers bit for bit, a folder that transformers loads, its own reading's logits, the same
token ids. The real model's file is compared too where it has been downloaded. LOZA names the
program."""

import inspect
import json
import os
import pathlib
import random
import subprocess

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from safetensors import safe_open
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config, Qwen3Config
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOZA = os.environ.get("LOZA", str(ROOT / "build" / "loza"))
REAL_MODELS = sorted((ROOT / ".cache" / "model").glob("SmolLM2-135M-*.gguf"))

TYPES = [
    Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1,
    Type.Q5_0, Type.Q5_1, Type.Q4_K, Type.Q5_K, Type.Q6_K,
]  # fmt: skip
# Where a block holds fp16 numbers, in bytes from its beginning.
HALVES = {
    Type.Q8_0: [0], Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2],
    Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208],
}  # fmt: skip

HEADS, KEY_HEADS, HIDDEN, FFN, LAYERS = 4, 2, 256, 512, 2
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] }}"
    "{{ '<|im_end|>\\n' }}{% endfor %}"
)


torch.set_num_threads(1)  # the models are tiny; threads would only wait for each other


def loza(*arguments, code=0):
    done = subprocess.run([LOZA, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    return done


def gguf_name(name):
    """model.layers.3.mlp.up_proj.weight -> blk.3.ffn_up.weight"""
    stem, suffix = name.rsplit(".", 1)
    if stem.startswith("model.layers."):
        _, _, layer, stem = stem.split(".", 3)
        return f"blk.{layer}.{NAMES[stem]}.{suffix}"
    return f"{NAMES[stem]}.{suffix}"


def interleave(weights, heads):
    """What llama.cpp does to the rows of q and k: the halves of each head alternate."""
    halves = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return halves.swapaxes(1, 2).reshape(weights.shape)


def pre_tokenizer(pre):
    """The public tokenizers' own definitions, from the `transformers` sources where they are."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if pre == "gpt-2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pre == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    pattern = PRETOKENIZE_REGEX
    if pre == "llama-bpe":
        pattern = inspect.signature(TikTokenConverter).parameters["pattern"].default
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level])


TEXT = (ROOT / "docs" / "design.md").read_text() + (
    "I'll we've THEY'RE don't 1234567 3.14 12,345  spaces   tabs\t\tnew\nlines\r\n\r\n naïve café "
    "Ünïcode ΑΒΓ αβγ привет мир 你好世界 こんにちは 안녕하세요 مرحبا עברית हिन्दी ไทย 👩‍👩‍👧 ½ ٣٤ e\u0301 \u2028 x"
) * 3


@pytest.fixture(scope="module")
def vocabulary():
    """A small byte-level BPE: its tokens and merges, the special tokens first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer("llama-bpe")
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    return tokens, merges


def write_gguf(path, arch, tensors, vocabulary, pre="smollm", special_last=False, **numbers):
    """`tensors`: name -> float32 array, or (raw bytes, type)."""
    tokens, merges = vocabulary
    kinds = [3 if token in SPECIAL else 1 for token in tokens]
    if special_last:
        tokens, kinds = tokens[3:] + tokens[:3], kinds[3:] + kinds[:3]
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(50000.0)
    if "key_length" in numbers:
        writer.add_key_length(numbers["key_length"])
        writer.add_value_length(numbers["key_length"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokens.index("<|im_start|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_unk_token_id(tokens.index("<|endoftext|>"))
    writer.add_pad_token_id(tokens.index("<|im_end|>"))
    writer.add_chat_template(TEMPLATE)
    for name, data in tensors.items():
        if isinstance(data, tuple):
            writer.add_tensor(name, data[0], raw_dtype=data[1])
        else:
            writer.add_tensor(name, np.ascontiguousarray(data, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def shapes(num_tokens):
    """A llama's matrices by Hugging Face's names."""
    q, k = HIDDEN, HIDDEN * KEY_HEADS // HEADS
    out = {"model.embed_tokens.weight": (num_tokens, HIDDEN)}
    for i in range(LAYERS):
        for name, shape in [
            ("self_attn.q_proj", (q, HIDDEN)),
            ("self_attn.k_proj", (k, HIDDEN)),
            ("self_attn.v_proj", (k, HIDDEN)),
            ("self_attn.o_proj", (HIDDEN, q)),
            ("mlp.gate_proj", (FFN, HIDDEN)),
            ("mlp.up_proj", (FFN, HIDDEN)),
            ("mlp.down_proj", (HIDDEN, FFN)),
        ]:
            out[f"model.layers.{i}.{name}.weight"] = shape
    return out


def norms():
    names = ["model.norm.weight"]
    for i in range(LAYERS):
        names += [f"model.layers.{i}.{n}.weight" for n in ("input_layernorm", "post_attention_layernorm")]
    return {name: np.linspace(0.5, 1.5, HIDDEN, dtype=np.float32) for name in names}


def finite_halves(rng, count):
    bits = rng.integers(0, 1 << 16, count, dtype=np.uint16)
    bits[(bits & 0x7C00) == 0x7C00] &= 0x83FF  # infinities and NaN become subnormal
    return bits


def random_blocks(rng, shape, kind):
    """Random bytes of the type, whose scales are any finite numbers."""
    values, size = gguf.GGML_QUANT_SIZES[kind]
    rows, cols = shape
    if kind == Type.F32:
        bits = rng.integers(0, 1 << 32, shape, dtype=np.uint32)
        bits[(bits & 0x7F800000) == 0x7F800000] &= 0x807FFFFF
        return bits.view(np.float32)
    if kind == Type.F16:
        return finite_halves(rng, shape).view(np.float16)
    if kind == Type.BF16:
        bits = rng.integers(0, 1 << 16, shape, dtype=np.uint16)
        bits[(bits & 0x7F80) == 0x7F80] &= 0x807F
        return bits.view(np.uint8)
    blocks = rng.integers(0, 256, (rows * cols // values, size), dtype=np.uint8)
    for offset in HALVES[kind]:
        blocks[:, offset : offset + 2] = finite_halves(rng, len(blocks)).view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, cols // values * size)


def same_bits(a, b):
    return a.shape == b.shape and np.array_equal(a.view(np.uint32), b.view(np.uint32))


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_dequantised_bit_for_bit(kind, vocabulary, tmp_path):
    rng = np.random.default_rng(kind.value)
    tensors, expected = {gguf_name(n): w for n, w in norms().items()}, norms()
    processor = LlamaTensorProcessor({"num_attention_heads": HEADS, "num_key_value_heads": KEY_HEADS})
    for name, shape in shapes(len(vocabulary[0])).items():
        raw = random_blocks(rng, shape, kind)
        with np.errstate(all="ignore"):
            values = gguf.dequantize(raw, kind)
        tensors[gguf_name(name)] = (raw, kind)
        expected[name] = processor.process(values, gguf_name(name)).weights
    path = write_gguf(tmp_path / "a.gguf", "llama", tensors, vocabulary)
    loza("import", path, tmp_path / "out", "--dtype", "fp32")
    with safe_open(tmp_path / "out" / "model.safetensors", "np") as file:
        assert sorted(file.keys()) == sorted(expected)
        for name in expected:
            assert same_bits(file.get_tensor(name), np.ascontiguousarray(expected[name])), name


def original(arch):
    common = dict(
        hidden_size=HIDDEN, intermediate_size=FFN, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS, max_position_embeddings=256, rms_norm_eps=1e-5,
        rope_theta=50000.0, initializer_range=0.2,
    )  # fmt: skip
    return {
        "llama": lambda v: LlamaConfig(vocab_size=v, tie_word_embeddings=True, **common),
        "llama-3": lambda v: LlamaConfig(
            vocab_size=v, tie_word_embeddings=False, attention_bias=True, mlp_bias=True,
            rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0,
                              high_freq_factor=4.0, original_max_position_embeddings=8192),
            **common),
        "qwen2": lambda v: Qwen2Config(vocab_size=v, tie_word_embeddings=False, **common),
        "qwen3": lambda v: Qwen3Config(vocab_size=v, tie_word_embeddings=True, head_dim=128, **common),
    }[arch]  # fmt: skip


def llama3_divisors(config):
    """By the formula of llama.cpp's converter, for the tensor rope_freqs.weight."""
    dim = HIDDEN // HEADS
    freqs = 1.0 / (50000.0 ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
    factors = []
    for wavelength in (2 * np.pi / freqs).tolist():
        if wavelength < 8192 / 4:
            factors.append(1.0)
        elif wavelength > 8192:
            factors.append(8.0)
        else:
            smooth = (8192 / wavelength - 1) / 3
            factors.append(1 / ((1 - smooth) / 8 + smooth))
    return np.array(factors, dtype=np.float32)


@pytest.mark.parametrize("arch", ["llama", "llama-3", "qwen2", "qwen3"])
def test_gives_back_the_model_that_was_exported(arch, vocabulary, tmp_path):
    """transformers' model -> GGUF by llama.cpp's conventions -> import -> transformers."""
    torch.manual_seed(0)
    num_tokens = len(vocabulary[0])
    model = AutoModelForCausalLM.from_config(original(arch)(num_tokens)).eval()
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "norm" in name or "bias" in name:
                weights.normal_(1.0 if "norm" in name else 0.0, 0.3)
    tensors = {}
    for name, weights in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        values = weights.numpy()
        if arch.startswith("llama") and (".q_proj." in name or ".k_proj." in name):
            values = interleave(values, HEADS if ".q_proj." in name else KEY_HEADS)
        tensors[gguf_name(name)] = values
    if arch == "llama-3":
        tensors["rope_freqs.weight"] = llama3_divisors(model.config)
    numbers = {"key_length": 128} if arch == "qwen3" else {}
    path = write_gguf(tmp_path / "a.gguf", arch.split("-")[0], tensors, vocabulary, **numbers)
    loza("import", path, tmp_path / "out")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert type(ours) is type(model) and ours.dtype == torch.float32
    theirs = model.state_dict()
    assert ours.state_dict().keys() == theirs.keys()
    for name, weights in ours.state_dict().items():
        assert torch.equal(weights, theirs[name]), name
    ids = torch.randint(0, num_tokens, (2, 200))
    with torch.no_grad():
        assert torch.equal(ours(ids).logits, model(ids).logits)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_logits_equal_transformers_own_reading(dtype, vocabulary, tmp_path):
    rng = np.random.default_rng(7)
    tensors = {gguf_name(n): w for n, w in norms().items()}
    for i, (name, shape) in enumerate(shapes(len(vocabulary[0])).items()):
        values = rng.normal(0, 0.1, shape).astype(np.float32)
        kind = [Type.Q8_0, Type.Q4_1, Type.Q4_0, Type.Q5_1][i % 4]
        tensors[gguf_name(name)] = (gguf.quantize(values, kind), kind)
    write_gguf(tmp_path / "a.gguf", "llama", tensors, vocabulary)
    loza("import", tmp_path / "a.gguf", tmp_path / "out", "--dtype", dtype)
    torch_dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="a.gguf", dtype=torch_dtype)
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert ours.dtype == torch_dtype
    ids = torch.randint(0, len(vocabulary[0]), (1, 100))
    with torch.no_grad():
        assert torch.equal(ours(ids).logits, theirs(ids).logits)


def reference_tokenizer(vocabulary, pre, special_last):
    """The tokenizer as its family publishes it, around the test's merges."""
    tokens, merges = vocabulary
    if special_last:
        tokens = tokens[3:] + tokens[:3]
    vocab = {t: i for i, t in enumerate(tokens) if not (special_last and t in SPECIAL)}
    tokenizer = Tokenizer(
        models.BPE(vocab, [tuple(m.split(" ")) for m in merges], ignore_merges=pre == "llama-bpe")
    )
    tokenizer.pre_tokenizer = pre_tokenizer(pre)
    tokenizer.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    if pre == "llama-bpe":
        bos = "<|im_start|>"
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1",
            special_tokens=[(bos, tokenizer.token_to_id(bos))],
        )  # fmt: skip
    return tokenizer


def random_texts(count):
    rng = random.Random(3)
    pieces = [*SPECIAL, *TEXT.split(" "), "  ", "\n", "\t", "'s", "'LL", "12345", "é", "e\u0301", "一", "\u200d"]
    for _ in range(count):
        text = "".join(rng.choice(pieces) + rng.choice(["", " ", " ", "\n"]) for _ in range(rng.randrange(1, 25)))
        yield text if rng.random() < 0.7 else "".join(rng.sample(text, len(text)))


@pytest.mark.parametrize("special_last", [False, True], ids=["special-first", "special-last"])
@pytest.mark.parametrize("pre", ["smollm", "gpt-2", "llama-bpe", "qwen2"])
def test_tokenizer_gives_the_same_ids(pre, special_last, vocabulary, tmp_path):
    rng = np.random.default_rng(1)
    tensors = {gguf_name(n): w for n, w in norms().items()}
    for name, shape in shapes(len(vocabulary[0])).items():
        tensors[gguf_name(name)] = (random_blocks(rng, shape, Type.Q4_K), Type.Q4_K)
    path = write_gguf(
        tmp_path / "a.gguf", "llama", tensors, vocabulary, pre=pre, special_last=special_last
    )
    loza("import", path, tmp_path / "out", "--dtype", "bf16")
    reference = reference_tokenizer(vocabulary, pre, special_last)
    ours = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (ours.bos_token, ours.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert (ours.unk_token, ours.pad_token) == ("<|endoftext|>", "<|im_end|>")
    assert len(ours) == len(vocabulary[0])
    texts = [TEXT, "", *random_texts(1000)]
    for text in texts:
        expected = reference.encode(text).ids
        assert ours.encode(text) == expected, text
        assert ours.decode(expected) == reference.decode(expected, skip_special_tokens=False)
    message = [{"role": "user", "content": "1 + 1?"}]
    assert ours.apply_chat_template(message, tokenize=False) == "<|im_start|>user\n1 + 1?<|im_end|>\n"

    lines = tmp_path / "texts.jsonl"
    lines.write_text("".join(json.dumps(text) + "\n" for text in texts))
    done = loza("tokenize", tmp_path / "out", "--text", lines, "--lines", "--json")
    for text, line in zip(texts, done.stdout.splitlines(), strict=True):
        assert json.loads(line)["ids"] == ours.encode(text, add_special_tokens=False), text


@pytest.mark.skipif(not REAL_MODELS, reason="the model has not been downloaded (make demo does)")
def test_the_real_model(tmp_path):
    path = REAL_MODELS[0]
    summary = json.loads(loza("import", path, tmp_path / "out", "--json").stdout)
    assert summary["parameters"] == 134515008 and summary["architecture"] == "LlamaForCausalLM"
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    expected = theirs.state_dict()
    assert ours.state_dict().keys() == expected.keys()
    for name, weights in ours.state_dict().items():
        assert torch.equal(weights, expected[name]), name
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")(TEXT[:200], return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(ours(ids).logits, theirs(ids).logits)


def test_errors_are_one_line_and_leave_nothing(vocabulary, tmp_path):
    rng = np.random.default_rng(1)
    tensors = {gguf_name(n): w for n, w in norms().items()}
    for name, shape in shapes(len(vocabulary[0])).items():
        tensors[gguf_name(name)] = (random_blocks(rng, shape, Type.Q8_0), Type.Q8_0)
    path = write_gguf(tmp_path / "a.gguf", "llama", tensors, vocabulary)
    whole = path.read_bytes()
    out = tmp_path / "out"

    def expect(file, words, code=3):
        done = loza("import", file, out, code=code)
        assert done.stdout == ""
        lines = [line for line in done.stderr.splitlines() if not line.startswith("importing")]
        assert len(lines) == 1 and words in lines[0], done.stderr
        return lines[0]

    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    expect(tmp_path / "cut.gguf", "download it again")
    (tmp_path / "magic.gguf").write_bytes(b"GGML" + whole[4:])
    expect(tmp_path / "magic.gguf", "a GGUF file")
    expect(tmp_path / "missing.gguf", "a readable file")
    raw = random_blocks(rng, (FFN, HIDDEN), Type.Q8_0)
    q3 = rng.integers(0, 256, (FFN, HIDDEN // 256 * 110), dtype=np.uint8)
    for change, words in [
        ({"blk.0.ffn_up.weight": (q3, Type.Q3_K)}, "Q3_K"),
        ({"blk.0.ffn_up_exps.weight": (raw, Type.Q8_0)}, "ffn_up_exps"),
    ]:
        expect(write_gguf(tmp_path / "b.gguf", "llama", tensors | change, vocabulary), words)
    expect(write_gguf(tmp_path / "c.gguf", "mamba", tensors, vocabulary), '"mamba"')
    expect(write_gguf(tmp_path / "d.gguf", "llama", tensors, vocabulary, pre="tekken"), '"tekken"')
    assert not out.exists() and not list(tmp_path.glob("out*"))
    out.mkdir()
    (out / "precious").write_text("x")
    expect(path, "new or empty folder", code=2)
    assert (out / "precious").read_text() == "x"
