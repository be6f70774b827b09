"""Greedy generation against transformers: every token that loza writes, over chunks of the prompt
and the KV pages and rings of the engine, is the likeliest one of a whole forward pass there."""

import json

import pytest
import torch
from test_models import SMALL, edit_config, load_model, reference_logits, run_loza

NUM_NEW = 60
PROMPT = "".join(f"line {n * 7919 % 1000}: the fox of {n} jumps; " for n in range(40))


def greedy(folder, *options):
    return json.loads(run_loza(
        "generate", folder, "-p", PROMPT, "--max-new", NUM_NEW, "--temperature", 0,
        "--ignore-eos", "--dtype", "fp32", "--json", *options))


def make_model(folder, family):
    """A tiny model with its tokenizer; its random head is no copy of the embedding, which would
    repeat one token for ever."""
    run_loza("make-tiny", folder, "--family", family, "--seed", 3)
    model = load_model(folder, tie_word_embeddings=False).eval()
    torch.manual_seed(1)
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("family", ["llama", "qwen3", "deepseek_v2", "deepseek_v3", "longcat_flash"])
@pytest.mark.parametrize("streaming", [False, True], ids=["full", "streaming"])
def test_greedy_tokens_are_transformers(family, streaming, tmp_path):
    folder = tmp_path / "model"
    model = make_model(folder, family)
    num_layers = model.config.num_hidden_layers
    plan = dict(SMALL, layer_type=("01" * num_layers)[:num_layers]) if streaming else None
    edit_config(folder, plan, old_rope=False)

    (tmp_path / "prompt.txt").write_text(PROMPT)
    prompt = json.loads(
        run_loza("tokenize", folder, "--text", tmp_path / "prompt.txt", "--json"))["ids"]
    written = greedy(folder, "--chunk", 48)
    ids = written["ids"]
    assert written["prompt_tokens"] == len(prompt) and len(ids) == NUM_NEW
    assert len(prompt) > 200, "too short for the window to hide anything"
    assert len(set(ids)) >= 8, "degenerate"

    logits = reference_logits(model, plan, prompt + ids)
    likeliest = logits[len(prompt) - 1 : -1].argmax(-1).tolist()
    assert ids == likeliest
    assert greedy(folder, "--chunk", 512)["ids"] == ids, "the chunks of a prompt changed the answer"
