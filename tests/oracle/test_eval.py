"""`loza eval --data` against transformers: exact match and NLL of a user's own rows.

The model is a small random Llama made here, with a byte-level BPE trained here. LOZA names the
program."""

import json
import os
import pathlib
import random
import subprocess

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOZA = os.environ.get("LOZA", str(ROOT / "build" / "loza"))
BLOCK, SINK, RECENT = 8, 1, 2
WORDS = "the quick brown fox jumps over a lazy dog while seven zebras graze near the river".split()


def make_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 50, trainer)
    return tokenizer


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    config = LlamaConfig(
        vocab_size=320, hidden_size=64, intermediate_size=128, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
        initializer_range=0.2,
    )
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    tokenizer = make_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder, model, tokenizer


def streaming_mask(length):
    """[1, 1, T, T] additive; all layers of the converted model have it."""
    pos = torch.arange(length)
    query, key = pos[:, None], pos[None, :]
    seen = (key // BLOCK < SINK) | (key // BLOCK >= query // BLOCK - RECENT + 1)
    seen &= key <= query
    mask = torch.zeros(length, length).masked_fill(~seen, torch.finfo(torch.float32).min)
    return mask[None, None]


def log_probabilities(model, ids, streaming):
    mask = streaming_mask(len(ids)) if streaming else None
    with torch.no_grad():
        return model(torch.tensor([ids]), attention_mask=mask).logits[0].double().log_softmax(-1)


def parts_of(row):
    if "turns" in row:
        return row["prompt"], row["turns"]
    return row["prompt"], [["", row["answer"]]]


def expected_scores(model, tokenizer, rows, streaming):
    answers = hits = tokens = text_tokens = 0
    nll = text_nll = 0.0
    for row in rows:
        if "text" in row:
            ids = tokenizer.encode(row["text"]).ids
            scores = log_probabilities(model, ids, streaming)
            text_nll -= sum(scores[p - 1, ids[p]].item() for p in range(1, len(ids)))
            text_tokens += len(ids) - 1
            continue
        prompt, turns = parts_of(row)
        ids, spans = tokenizer.encode(prompt).ids, []
        for question, answer in turns:
            ids += tokenizer.encode(question).ids
            begin = len(ids)
            ids += tokenizer.encode(answer).ids
            spans.append((begin, len(ids)))
        scores = log_probabilities(model, ids, streaming)
        for begin, end in spans:
            answers += 1
            hits += all(scores[p - 1].argmax().item() == ids[p] for p in range(begin, end))
            nll -= sum(scores[p - 1, ids[p]].item() for p in range(begin, end))
            tokens += end - begin
    return {
        "rows": len(rows), "answers": answers, "answer_tokens": tokens,
        "exact_match": hits / answers, "answer_nll": nll / tokens,
        "text_tokens": text_tokens, "text_nll": text_nll / text_tokens,
    }


def greedy_answer(model, tokenizer, prompt, streaming):
    """The model's likeliest next token as text, where that text is this token again."""
    ids = tokenizer.encode(prompt).ids
    best = log_probabilities(model, ids, streaming)[-1].argmax().item()
    text = tokenizer.decode([best])
    return text if tokenizer.encode(text).ids == [best] else None


def make_rows(model, tokenizer, streaming):
    rng = random.Random(5)

    def words(n):
        return " ".join(rng.choice(WORDS) for _ in range(n))

    rows = [{"text": words(40)}, {"text": "Grüße, 你好 — \U0001f98a\n\tend"}]
    for _ in range(6):
        rows.append({"prompt": words(30), "answer": " " + words(2)})
        rows.append({"prompt": words(9), "turns": [[" " + words(4) + "?", " 4711"], ["\n", "ü"]]})
    while sum("answer" in row and row.get("greedy", False) for row in rows) < 8:
        prompt = words(rng.randrange(5, 40))
        answer = greedy_answer(model, tokenizer, prompt, streaming)
        if answer:
            rows.append({"prompt": prompt, "answer": answer, "greedy": True})
    return [{k: v for k, v in row.items() if k != "greedy"} for row in rows]


def loza_eval(folder, data, *options):
    command = [LOZA, "eval", str(folder), "--data", str(data), "--dtype", "fp32", "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def assert_equal_scores(got, expected):
    for name in ("rows", "answers", "answer_tokens", "text_tokens", "exact_match"):
        assert got[name] == expected[name], name
    for name in ("answer_nll", "text_nll"):
        assert got[name] == pytest.approx(expected[name], rel=1e-4), name


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_score_as_in_transformers(tiny, tmp_path, streaming):
    folder, model, tokenizer = tiny
    rows = make_rows(model, tokenizer, streaming)
    data = tmp_path / "rows.jsonl"
    write_rows(data, rows)
    expected = expected_scores(model, tokenizer, rows, streaming)
    assert 0 < expected["exact_match"] < 1
    pattern = ["--block-size", str(BLOCK), "--sink-blocks", str(SINK), "--recent-blocks", str(RECENT)]
    plan = ["--plans", "streaming", *pattern] if streaming else []
    assert_equal_scores(loza_eval(folder, data, *plan), expected)


def test_plans_stand_side_by_side(tiny, tmp_path):
    folder, model, tokenizer = tiny
    rows = make_rows(model, tokenizer, False)
    data = tmp_path / "rows.jsonl"
    write_rows(data, rows)
    gates = tmp_path / "gates.json"
    gates.write_text('{"alpha": [0.1, 0.9, 0.5]}')
    report = loza_eval(folder, data, "--plans", "dense,streaming,random:3", "--gates", str(gates),
                       "--sparsity", "0.34", "--block-size", "8", "--recent-blocks", "2")
    names = [subject["name"] for subject in report["subjects"]]
    assert names == ["dense", "streaming", "random:3", "gates"]
    assert [s["layer_type"] for s in report["subjects"]][::3] == ["000", "100"]
    assert [s["streaming_modules"] for s in report["subjects"]] == [0, 3, 1, 1]
    for name, streaming in (("dense", False), ("streaming", True)):
        expected = expected_scores(model, tokenizer, rows, streaming)
        cell = next(c for c in report["cells"] if (c["subject"], c["task"]) == (name, "answers"))
        assert cell["exact_match"]["value"] == expected["exact_match"]
        assert cell["nll"]["value"] == pytest.approx(expected["answer_nll"], rel=1e-4)
        assert cell["nll"]["low"] <= cell["nll"]["value"] <= cell["nll"]["high"]


def test_bench_times_the_same_choice(tiny, tmp_path):
    gates = tmp_path / "gates.json"
    gates.write_text('{"alpha": [0.1, 0.9, 0.5]}')
    done = subprocess.run(
        [LOZA, "bench", tiny[0], "--gates", gates, "--sparsity", "0.34", "--block-size", "8",
         "--recent-blocks", "2", "--lengths", "64", "--decoded", "1", "--repeats", "1", "--json"],
        capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)
    assert [(row["plan"], row["layer_type"]) for row in rows] == [("dense", "000"),
                                                                  ("gates", "100")]
    assert rows[1]["kv_bytes"]["total"] < rows[0]["kv_bytes"]["total"]


@pytest.mark.parametrize(
    "content", ["", "{}\n", '{"text": ""}\n', '{"prompt": "a"}\n', '{"prompt": "a", "answer": ""}\n',
                '{"prompt": "", "answer": "b"}\n', "not json\n", '{"text": 1}\n'])
def test_bad_rows_are_refused(tiny, tmp_path, content):
    data = tmp_path / "rows.jsonl"
    data.write_text(content)
    command = [LOZA, "eval", str(tiny[0]), "--data", str(data), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stdout == ""
    assert "rows.jsonl" in done.stderr


@pytest.mark.parametrize("options", [
    ["--plans", "alpha"], ["--plans", "nonsense"], ["--plans", "random:x"], ["--lengths", "3x"],
    ["--tasks", "nonsense"], ["--sparsity", "1.5"], ["--dtype", "fp8"], ["--documents", "0"]])
def test_bad_options_are_refused(tiny, options):
    command = [LOZA, "eval", str(tiny[0]), "--tasks", "noise", "--lengths", "300", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
