"""models/mla-7m, the trained model with latent attention: what its card says, on two cores."""

import json
import pathlib

import pytest
import torch
from test_models import ROOT, TOLERANCE, loza_logits, run_loza
from transformers import AutoModelForCausalLM, AutoTokenizer

MODEL = ROOT / "models" / "mla-7m"
STREAMING = ["--block-size", 16]


def hits(report, task, subject):
    cells = [cell for cell in report["cells"]
             if cell["task"] == task and cell["subject"] == subject]
    assert len(cells) == 1
    return cells[0]["exact_match"]["value"]


def test_logits_are_transformers(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    ids = tokenizer.encode(pathlib.Path(__file__).read_text())[:900]
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0]
    for decode in (0, 40):
        ours = loza_logits(MODEL, ids, tmp_path, "--dtype", "fp32", "--decode", decode)
        assert (ours - expected).abs().max() <= TOLERANCE * expected.abs().max()


def test_full_attention_finds_what_streaming_cannot_and_calibration_keeps_it(tmp_path):
    gates = tmp_path / "gates.json"
    run_loza("calibrate", MODEL, "--data", "lines,noise", "--length", 704, *STREAMING, "--out",
             gates)
    report = json.loads(run_loza(
        "eval", MODEL, "--tasks", "lines,niah-multikey-2,copy,vt-2:1", "--lengths", 1024, "--documents", 3,
        "--plans", "dense,streaming", "--gates", gates, "--sparsity", 0.5, *STREAMING, "--json"))
    calibrated = report["subjects"][2]["name"]
    assert report["subjects"][2]["layer_type"].count("1") == 6
    for task in ("lines", "niah-multikey-2", "copy", "vt-2:1"):
        assert hits(report, task, "dense") >= 0.85
        assert hits(report, task, "streaming") <= 0.15
    assert hits(report, "lines", "dense") >= 0.95
    assert hits(report, "lines", calibrated) >= 0.9


def test_demo_trains_the_converted_model(tmp_path):
    run_loza("demo", "--model", MODEL, "--out", tmp_path, "--fast", "--prose",
             ROOT / ".cache/text/prose.txt", "--code", ROOT / ".cache/text/code.txt", "--json")
    report = json.loads((tmp_path / "report.json").read_text())
    nats = {cell["subject"]: cell["nll"]["value"] for cell in report["quality"]["cells"]
            if cell["task"] == "ppl"}
    assert nats["calibrated, trained"] < nats["calibrated"]
    assert hits(report["quality"], "lines", "calibrated, trained") >= 0.85
    assert (tmp_path / "model-recovered" / "model.safetensors").exists()
    answers = {answer["subject"]: answer for answer in report["questions"][0]["answers"]}
    assert answers["dense"]["correct"]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_everything_is_there(name):
    assert (MODEL / name).stat().st_size > 0
    assert (MODEL / "model.safetensors").stat().st_size <= 16_000_000
