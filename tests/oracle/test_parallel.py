"""`loza train` and `loza calibrate` by several processes: what one process does, whatever their
number; and what happens when one of them is killed, hangs, or is given nonsense."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from test_models import LOZA, run_loza

torch.set_num_threads(1)

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--no-python"]
TRAIN = ["--data", "lines", "--length", "300", "--questions", "2", "--batch", "5", "--lr", "3e-3",
         "--dtype", "fp32", "--pass-tokens", "700"]

# c10d asks for the name of every address it connects to: where nobody answers, 5 s by default.
RESOLVER = {"RES_OPTIONS": "timeout:1 attempts:1"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parallel") / "model"
    run_loza("make-tiny", folder, "--family", "llama", "--seed", 5)
    return folder


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_ranks(size, *args):
    """As torchrun would, but without its agent: rank 0 keeps the store."""
    common = dict(os.environ, WORLD_SIZE=str(size), MASTER_ADDR="localhost",
                  MASTER_PORT=str(free_port()), OMP_NUM_THREADS="1", **RESOLVER)
    return [subprocess.Popen([LOZA, *map(str, args)], env=dict(common, RANK=str(rank)), text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            for rank in range(size)]


def finish(ranks, seconds=30):
    """(exit code, stdout, stderr) by rank."""
    try:
        results = [rank.communicate(timeout=seconds) for rank in ranks]
        return [(rank.returncode, *result) for rank, result in zip(ranks, results)]
    finally:
        for rank in ranks:
            rank.kill()


def run_ranks(size, *args):
    results = finish(start_ranks(size, *args))
    assert [code for code, _, _ in results] == [0] * size, results
    for _, stdout, stderr in results[1:]:
        assert stdout == "" and stderr == ""
    return results[0][1]


def steps_of(out):
    return [json.loads(line) for line in (out.parent / f"{out.name}.run/log.jsonl").open()]


def assert_same_run(ours, expected):
    steps = steps_of(expected)
    assert len(steps) == 6 and steps[-1]["loss"] < 0.95 * steps[0]["loss"], "nothing was learnt"
    for name in ["loss", "grad_norm", "tokens", "lr"]:
        assert ([step[name] for step in steps_of(ours)]
                == pytest.approx([step[name] for step in steps], rel=1e-5))
    a, b = (load_file(out / "model.safetensors") for out in (ours, expected))
    assert a.keys() == b.keys()
    start = load_file(expected.parent / "model/model.safetensors")
    moved = sum((b[name] - start[name]).square().sum().item() for name in b)
    apart = sum((b[name] - a[name]).square().sum().item() for name in b)
    assert math.sqrt(apart / moved) < 1e-3  # Adam makes much of gradients that are nearly 0


@pytest.fixture(scope="module")
def alone(model):
    out = model.parent / "alone"
    run_loza("train", model, out, *TRAIN, "--steps", 6)
    return out


def test_torchrun_trains_as_one_process_does(model, alone, tmp_path):
    out = tmp_path / "out"
    result = subprocess.run([*TORCHRUN, "--nproc-per-node", "2", "--master-port", str(free_port()),
                             LOZA, "train", model, out, *TRAIN, "--steps", "6", "--json"],
                            env=dict(os.environ, OMP_NUM_THREADS="1", **RESOLVER), capture_output=True,
                            text=True, timeout=60, check=True)
    assert json.loads(result.stdout)["steps"] == 6  # printed once
    assert_same_run(out, alone)
    assert sorted(path.name for path in (tmp_path / "out.run").iterdir()) == [
        "log.jsonl", "loss.svg", "step-00000006"]


def test_two_processes_are_resumed_by_one(model, alone, tmp_path):
    """What is left of a run is its snapshot of step 3, as after a machine went down."""
    def train(size, out):
        args = ["train", model, out, *TRAIN, "--steps", 6, "--save-every", 3, "--run",
                tmp_path / "out.run", "--resume"]
        return run_loza(*args) if size == 1 else run_ranks(size, *args)

    train(2, tmp_path / "whole")
    run = tmp_path / "out.run"
    assert (run / "step-00000003").is_dir()
    subprocess.run(["rm", "-r", run / "step-00000006"], check=True)
    lines = (run / "log.jsonl").read_text().splitlines(keepends=True)
    (run / "log.jsonl").write_text("".join(lines[:3]))
    train(1, tmp_path / "out")
    assert_same_run(tmp_path / "out", alone)


def test_calibrates_as_one_process_does(model, tmp_path):
    args = ["calibrate", model, "--data", "lines", "--length", 700,
            "--block-size", 32, "--steps", 2, "--batch", 3, "--dtype", "fp32", "--out"]
    run_loza(*args, tmp_path / "one.json")
    assert "written to" in run_ranks(2, *args, tmp_path / "two.json")
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ["one", "two"])
    assert two.pop("alpha") == pytest.approx(one.pop("alpha"), rel=1e-5)
    for gates in (one, two):
        for seed in gates["seeds"]:
            seed.pop("alpha")
    assert two == one


@pytest.mark.parametrize("how, victim", [(signal.SIGKILL, 1), (signal.SIGKILL, 0),
                                         (signal.SIGSTOP, 0)])
def test_a_lost_rank_ends_all(how, victim, model, tmp_path):
    out, timeout = tmp_path / "out", 2
    ranks = start_ranks(3, "train", model, out, *TRAIN, "--steps", 100000, "--timeout", timeout)
    log = tmp_path / "out.run/log.jsonl"
    deadline = time.monotonic() + 20
    while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(ranks[victim].pid, how)
    start = time.monotonic()
    left = [rank for i, rank in enumerate(ranks) if i != victim]
    try:
        results = finish(left, seconds=15)
    finally:
        ranks[victim].kill()
        ranks[victim].communicate()
    took = time.monotonic() - start
    assert [code for code, _, _ in results] == [1, 1]
    errors = [line for _, _, stderr in results for line in stderr.splitlines() if "error" in line]
    assert errors and all(f"rank {victim}" in line for line in errors), results
    if victim == 1:
        assert len(errors) == 1  # of both
    assert took < 3 * timeout, took
    assert not out.exists()


def test_an_error_of_all_is_printed_once(model, tmp_path):
    for args, code in [(["train", tmp_path / "nothing", tmp_path / "out"], 3),
                       (["train", model, tmp_path / "out", "--length", "10"], 2),
                       (["train", model, tmp_path / "out", "--bogus"], 2)]:
        results = finish(start_ranks(2, *args))
        assert [result[0] for result in results] == [code] * 2, results
        stderr = "".join(stderr for _, _, stderr in results)
        assert sum("expected" in line for line in stderr.splitlines()) == 1, stderr


def test_nonsense_of_a_launcher_is_named(model, tmp_path):
    environment = dict(os.environ, RANK="3", WORLD_SIZE="2", MASTER_ADDR="localhost",
                       MASTER_PORT="29500")
    result = subprocess.run([LOZA, "train", model, tmp_path / "out"], env=environment,
                            capture_output=True, text=True, timeout=20)
    assert result.returncode == 2
    assert "environment variable RANK: expected a whole number from 0 to 1, got '3'" in result.stderr
