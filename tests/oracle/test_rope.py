"""`loza convert --rope yarn` and `--rope-theta` against transformers, up to position 1,048,575."""

import json
import shutil
import subprocess

import pytest
import torch
from test_models import LOZA, TOLERANCE, loza_logits, random_ids, run_loza
from transformers import AutoModelForCausalLM

LENGTH = 300
LAST = 1_048_576 - LENGTH
OLD, NEW = ("rope_theta", "rope_scaling"), ("rope_parameters",)


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def assert_equals_transformers(folder, tmp_path, first_position):
    ids = random_ids(first_position, LENGTH)
    model = AutoModelForCausalLM.from_pretrained(folder).float().eval()
    with torch.no_grad():
        positions = torch.arange(LENGTH)[None] + first_position
        expected = model(torch.tensor([ids]), position_ids=positions, use_cache=False).logits[0]
    for decode in (0, 9):
        ours = loza_logits(folder, ids, tmp_path, "--dtype", "fp32", "--first-position",
                           first_position, "--decode", decode)
        assert (ours - expected).abs().max() <= TOLERANCE * expected.abs().max()
    return expected


@pytest.mark.parametrize("family", ["llama", "qwen3", "deepseek_v2", "deepseek_v3"])
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
])
def test_bad_changes_are_refused(options, tmp_path):
    run_loza("make-tiny", tmp_path / "model", "--family", "llama", "--seed", 4)
    done = subprocess.run([LOZA, "convert", tmp_path / "model", tmp_path / "out", *options],
                          capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert not (tmp_path / "out").exists()
