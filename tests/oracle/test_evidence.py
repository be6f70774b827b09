"""scripts/evidence: what documents show is what was measured; stages run when they may."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "scripts" / folder) for folder in ("evidence_parts", "measured")]

import pages  # noqa: E402
import schedule  # noqa: E402
from stages import STAGES, Stage  # noqa: E402


def test_documents_show_what_results_json_has(tmp_path):
    shown = ["README.md", "docs/evidence.md", "evidence/million.svg", "evidence/report.html"]
    for name in [*shown, "evidence/results.json"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    pages.write(tmp_path / "evidence", tmp_path)
    for name in shown:
        assert (tmp_path / name).read_text() == (ROOT / name).read_text(), name


def test_sentences_say_what_results_json_has():
    """The numbers that stand in prose, made again from what was measured."""
    stages = json.loads((ROOT / "evidence/results.json").read_text())
    parts = {name: stage["result"] for name, stage in stages.items() if "/" not in name}
    runs = pages.million_runs(parts)

    def percent(variant, task, length):
        return pages.percent(pages.long_cell(runs[variant], task, length))

    def span(variant, length):
        found = sorted((percent(variant, task, length) for task in ("niah", "noise")), key=int)
        return f"{found[0]} to {found[1]} %"

    def fewer(task):
        """Answers that the dense models had and the zigzag ones had not, over lengths and seeds."""
        report = parts["recovery"]["scores"]
        hits = [sum(pool[0] * pool[2] for pool in (
            pages.pooled_seeds(report, task, length, names) for length in pages.lengths_of(report)))
            for _, names in pages.recovered(report)[1:]]
        return round(hits[0] - hits[1])

    def prefill(plan):
        return next(row["prefill_tokens_per_s"] for row in parts["speed"]["loza"]
                    if (row["plan"], row["length"]) == (plan, 1 << 17))

    half, million = 1 << 19, 1 << 20
    best, yarn, dense = "zigzag, RoPE by kind", "zigzag, YaRN everywhere", "dense, YaRN everywhere"
    assert fewer("niah-single-3") == fewer("niah-multikey-1") == 2
    assert fewer("niah-multikey-3") == 6
    short = runs[best]["short"]
    original, trained = (subject["name"] for subject in short["subjects"])
    change = [abs(pages.mean_nll(short, text, trained) - pages.mean_nll(short, text, original))
              for text in pages.TEXTS]
    assert max(change) < 0.02
    seconds = pages.long_cell(runs[yarn], "niah", million)["seconds"]
    claims = [
        "it has two answers of 126 fewer", "neither model does well, six",
        f"fall to {percent(best, 'lines', half)} % at 512K and about half at 1M",
        f"find {span(yarn, million)} at 1M", f"YaRN everywhere {span(dense, million)},",
        f"and {percent(dense, 'niah:1', 1 << 17)} % at 128K where the wording is another",
        f"read a million tokens in {seconds:.0f} seconds",
        f"reads a prompt {prefill('config') / prefill('dense'):.1f} times as fast as dense",
    ]
    assert 45 <= int(percent(best, "lines", million)) <= 55
    text = " ".join((ROOT / "docs/evidence.md").read_text().split())
    for claim in claims:
        assert claim in text, claim
    assert f"reads in {seconds:.0f} seconds" in (ROOT / "README.md").read_text()


def test_a_changed_number_is_seen(tmp_path):
    (tmp_path / "docs").mkdir()
    text = (ROOT / "docs/evidence.md").read_text()
    changed = text.replace("| 0.98 |", "| 0.99 |", 1)
    assert changed != text
    (tmp_path / "docs/evidence.md").write_text(changed)
    shutil.copy(ROOT / "README.md", tmp_path)
    (tmp_path / "evidence").mkdir()
    shutil.copy(ROOT / "evidence/results.json", tmp_path / "evidence")
    pages.write(tmp_path / "evidence", tmp_path)
    assert (tmp_path / "docs/evidence.md").read_text() == text


def test_every_need_is_a_stage():
    names = [stage.name for stage in STAGES]
    assert len(set(names)) == len(names)
    for stage in STAGES:
        assert set(stage.needs) <= set(names), stage.name


def test_stages_run_beside_each_other_where_they_may(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7,9")
    def stage(name, needs=(), **kinds):
        return Stage(name, None, needs, **kinds)

    wanted = [stage("first"), stage("second", ("first",)), stage("large 1", is_large=True),
              stage("large 2", is_large=True), stage("large 3", is_large=True),
              stage("large 4", is_large=True), stage("large 5", is_large=True), stage("broken"),
              stage("blocked", ("broken",)), stage("never measured", ("elsewhere",)),
              stage("alone", is_alone=True)]
    (tmp_path / "parts").mkdir()

    def part_of(name):
        return tmp_path / "parts" / name

    def command_of(stage):
        program = (f"import os, time, pathlib; begun = time.time(); time.sleep(0.3); "
                   f"gpu = os.environ['CUDA_VISIBLE_DEVICES']; "
                   f"name = {stage.name!r}; ok = name != 'broken'; "
                   f"ok and pathlib.Path({str(part_of(stage.name))!r}).write_text("
                   f"f'{{begun}} {{time.time()}} {{gpu}}')")
        return [sys.executable, "-c", program]

    begun = time.time()
    failed = schedule.run_on_gpus(wanted, 2, command_of, part_of, tmp_path)
    assert sorted(failed) == ["blocked", "broken", "never measured"]
    ran = {path.name: [float(number) for number in path.read_text().split()]
           for path in (tmp_path / "parts").iterdir()}
    assert set(ran) == {"first", "second", "large 1", "large 2", "large 3",
                        "large 4", "large 5", "alone"}
    assert ran["second"][0] >= ran["first"][1]
    assert {run[2] for run in ran.values()} == {5, 7}

    def together(a, b):
        return ran[a][0] < ran[b][1] and ran[b][0] < ran[a][1] and ran[a][2] == ran[b][2]

    for a in ran:
        beside = [b for b in ran if b != a and together(a, b)]
        assert len(beside) < schedule.MAX_STAGES_PER_GPU, (a, beside)
        if a.startswith("large"):
            also_large = [b for b in beside if b.startswith("large")]
            assert len(also_large) < schedule.MAX_LARGE_PER_GPU, (a, also_large)
        assert a != "alone" or not beside
    assert time.time() - begun < 30


# Answers as loza would, at once. Its scores say which model and task they are of.
STAND_IN = """#!{python}
import json, pathlib, sys

command, *words = sys.argv[1:]
def after(option, default=""):
    return words[words.index(option) + 1] if option in words else default
def number(text):
    return int(text) if text.isdigit() else int(text[:-1]) << {{"k": 10, "m": 20}}[text[-1]]
positional = []
for word in words:
    if word.startswith("--"):
        break
    positional.append(pathlib.Path(word))
for source in positional[:1 if command in ("train", "convert") else None]:
    assert source.is_dir(), source
if command == "calibrate":
    gates = pathlib.Path(after("--out"))
    gates.write_text("{{}}")
    seeds = [{{"trajectory": [], "losses": []}}] * int(after("--seeds"))
    report = {{"seeds": seeds, "tokens": 100, "seconds": 1.0, "alpha": [0.1, 0.9],
               "layer_type": "10",
               "stability": {{"rank_correlation": 1.0, "overlap": 1.0, "num_tied_at_cut": 0}}}}
elif command in ("convert", "train"):
    positional[1].mkdir()
    assert "--gates" not in words or pathlib.Path(after("--gates")).exists()
    report = {{"log": "", "tokens": 1000, "seconds": 2.0, "tokens_per_s": 500.0}}
elif command == "eval":
    plans = after("--plans").split(",") + after("--gates").split(",") if "--plans" in words else []
    subjects = [pathlib.Path(plan).stem for plan in plans if plan] or [m.name for m in positional]
    documents = int(after("--documents"))
    report = {{"subjects": [{{"name": name}} for name in subjects], "cells": [
        {{"task": task, "length": number(length), "subject": subject, "documents": documents,
          "answers": 0 if task.startswith("ppl") else 10 * documents, "tokens": 50,
          "exact_match": None if task.startswith("ppl") else
                         {{"value": 0.9 if "yarn" in subject else 0.5, "low": 0.1, "high": 0.95}},
          "nll": {{"value": 1.5}}, "seconds": 1.0, "peak_gpu_mib": 100.0}}
        for task in after("--tasks").split(",") for length in after("--lengths").split(",")
        for subject in subjects]}}
else:
    assert command == "bench", command
    report = [{{"model": positional[0].name, "plan": plan, "length": number(length),
                "prefill_tokens_per_s": 10.0, "decode_tokens_per_s": 1.0,
                "kv_bytes": {{"total": 1 << 20}}}}
              for length in after("--lengths").split(",") for plan in ("config", "dense")]
print(json.dumps(report))
"""


@pytest.mark.parametrize("context", [8192, 1024])
def test_every_stage_and_every_table(tmp_path, context):
    """From stage to page with a program that measures nothing: whether they fit together."""
    program = tmp_path / "loza"
    program.write_text(STAND_IN.format(python=sys.executable))
    program.chmod(0o755)
    model = tmp_path / "base"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"max_position_embeddings": context}))
    text = tmp_path / "text.txt"
    text.write_text("a text")
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/evidence", "run", model, out,
         "--train-text", text, text], capture_output=True, text=True, env={**os.environ, "LOZA": str(program)})
    assert done.returncode == 0, done.stderr
    pages.write(out, None)
    stages = json.loads((out / "results.json").read_text())
    fits = {stage.name for stage in STAGES if stage.for_small or context > 2048}
    assert set(stages) == fits
    page = (out / "report.html").read_text()
    for name in ["gates", "choices", "sparsity", "recovery"]:
        assert pages.TITLES[name] in page, name
    if context > 2048:
        million = pages.tables(stages)["million"]
        rows = {(row[0], row[1]): row[2:] for row in million}
        assert "50 [10, 95] / 1.50" == rows[("zigzag, RoPE by kind", "lines")][3]
        # The best of the others is asked for lines at a million too.
        assert "90 [10, 95] / 1.50" == rows[("zigzag, YaRN everywhere", "lines")][3]
        assert "not run" == rows[("dense, YaRN everywhere", "lines")][3]
