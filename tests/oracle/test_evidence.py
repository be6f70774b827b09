"""scripts/evidence: what documents show is what was measured; stages run when they may."""

import pathlib
import shutil
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "evidence_parts"))

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


def test_stages_run_beside_each_other_where_they_may(tmp_path):
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
    assert {run[2] for run in ran.values()} == {0, 1}

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
