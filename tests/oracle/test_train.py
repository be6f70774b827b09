"""Ten optimiser steps against PyTorch: `loza train` and torch.optim.AdamW over transformers' own
model end at the same weights, for every family, with and without streaming modules."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from test_models import SMALL, edit_config, load_model, reference_logits, run_loza
from transformers import AutoTokenizer

torch.set_num_threads(1)  # the models are tiny

STEPS, LR, BETAS, DECAY, CLIP = 10, 3e-3, (0.9, 0.95), 0.1, 1.0
TEXT_WEIGHT = 0.5

# Every step visits every expert. One that is not visited waits, as a parameter without a gradient
# does; transformers' experts are one parameter, and decay nevertheless.
SEEDS = {"longcat_flash": 6}

ROWS = [
    {"prompt": "".join(f"line {n}: the value is {n * 7919 % 1000}; " for n in range(16)),
     "turns": [[" What is in line 3?", " 757"], [" And in line 5?", " 595"]]},
    {"prompt": "one fox jumps over a dog. " * 4, "answer": "The end"},
    {"text": "The quick brown fox jumps over the lazy dog, and then again. " * 5},
]


def documents(folder):
    """(ids, rows with a loss, weight): strings are encoded one by one and joined."""
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def encode(text):
        return tokenizer.encode(text, add_special_tokens=False)

    for row in ROWS:
        if "text" in row:
            ids = encode(row["text"])
            yield ids, list(range(1, len(ids))), TEXT_WEIGHT
            continue
        ids, counted = encode(row["prompt"]), []
        for question, answer in row.get("turns", [["", row.get("answer")]]):
            ids += encode(question)
            answer = encode(answer)
            counted += range(len(ids), len(ids) + len(answer))
            ids += answer
        yield ids, counted, 1.0


def loss_of(model, plan, rows):
    losses = []
    for ids, counted, weight in rows:
        logits = reference_logits(model, plan, ids)[[t - 1 for t in counted]]
        targets = torch.tensor([ids[t] for t in counted])
        losses.append(weight * torch.nn.functional.cross_entropy(logits.float(), targets))
    return torch.stack(losses).mean()


def train_in_torch(model, plan, rows):
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=BETAS, weight_decay=DECAY)
    losses = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LR * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        optimizer.zero_grad()
        loss = loss_of(model, plan, rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("streaming", [False, True], ids=["full", "streaming"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "deepseek_v2", "deepseek_v3",
                                    "longcat_flash"])
def test_ten_steps_are_pytorchs(family, streaming, tmp_path):
    folder = tmp_path / "model"
    run_loza("make-tiny", folder, "--family", family, "--seed", SEEDS.get(family, 5))
    model = load_model(folder)
    num_layers = model.config.num_hidden_layers
    plan = dict(SMALL, layer_type=("01" * num_layers)[:num_layers]) if streaming else None
    edit_config(folder, plan, old_rope=False)

    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    run_loza("train", folder, tmp_path / "out", "--data", rows, "--length", "4k",
             "--batch", len(ROWS), "--steps", STEPS, "--lr", LR, "--warmup", 0, "--final-lr", 0,
             "--weight-decay", DECAY, "--clip", CLIP, "--text-weight", TEXT_WEIGHT,
             "--dtype", "fp32", "--pass-tokens", 400)
    log = [json.loads(line) for line in (tmp_path / "out.run/log.jsonl").read_text().splitlines()]

    expected = train_in_torch(model.train(), plan, list(documents(folder)))
    assert expected[-1] < 0.9 * expected[0], "nothing was learnt"
    assert [step["loss"] for step in log] == pytest.approx(expected, rel=2e-4)

    model.save_pretrained(tmp_path / "theirs")
    before, ours, theirs = (load_file(path / "model.safetensors")
                            for path in (folder, tmp_path / "out", tmp_path / "theirs"))
    assert ours.keys() == before.keys()
    moved = sum((theirs[name] - before[name]).square().sum().item() for name in before)
    apart = sum((theirs[name] - ours[name]).square().sum().item() for name in before)
    assert math.sqrt(apart / moved) < 0.01
