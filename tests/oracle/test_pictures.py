"""Pictures and tables of what benchmarks measured: each number is where its value belongs, words do
not lie on each other, and documents show what the files of the runs have."""

import itertools
import json
import math
import pathlib
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "measured"))

import chart  # noqa: E402
import documents  # noqa: E402

ROOFLINE = ROOT / "bench/attention_cpu/roofline"
PEERS = ROOT / "bench/peers/against_llama_cpp"
RUN_OF_ROOFLINE = ROOT / "bench/results/attention-cpu.json"
RUN_OF_PEERS = ROOT / "bench/results/beside-llama-cpp.json"


def done(*command):
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True)


def elements(svg, kind):
    return [node for node in ElementTree.fromstring(svg).iter() if node.tag.endswith(kind)]


def box_of(node):
    """Where words are, were every letter as wide as in a wide font."""
    size, x, y = (float(node.get(name)) for name in ("font-size", "x", "y"))
    width = 0.6 * size * len(node.text)
    left = x - width * {"start": 0, "middle": 0.5, "end": 1}[node.get("text-anchor")]
    return left, y - 0.75 * size, left + width, y + 0.2 * size


def check_words(svg, height):
    words = [node for node in elements(svg, "text")]
    for a, b in itertools.combinations(words, 2):
        (l1, t1, r1, b1), (l2, t2, r2, b2) = box_of(a), box_of(b)
        assert min(r1, r2) <= max(l1, l2) or min(b1, b2) <= max(t1, t2), (a.text, b.text)
    for node in words:
        left, top, right, bottom = box_of(node)
        # The last mark's name is in the middle below the end of its axis.
        assert 0 <= left and right <= chart.WIDTH + 8 and 0 <= top and bottom <= height, node.text


def values_on(marks):
    """A function from pixels to values, of two marks (pixel, value) of a logarithmic axis."""
    (p1, v1), (p2, v2) = marks[0], marks[-1]
    return lambda pixel: v1 * (v2 / v1) ** ((pixel - p1) / (p2 - p1))


# --- The roofline --------------------------------------------------------------------------------

def test_cases_are_where_their_work_puts_them(tmp_path):
    run = json.loads(RUN_OF_ROOFLINE.read_text())
    done(ROOFLINE, RUN_OF_ROOFLINE, tmp_path / "roofline.svg").check_returncode()
    svg = (tmp_path / "roofline.svg").read_text()
    check_words(svg, 560)
    numbers = [(node, float(node.text.replace(",", ""))) for node in elements(svg, "text")
               if re.fullmatch(r"[\d,]+", node.text)]
    across = values_on([(float(node.get("x")), value) for node, value in numbers
                        if node.get("text-anchor") == "middle"])
    up = values_on([(float(node.get("y")) - 4, value) for node, value in numbers
                    if node.get("text-anchor") == "end"])
    drawn = [(across(float(node.get("cx"))), up(float(node.get("cy"))), node.get("fill"))
             for node in elements(svg, "circle")]
    cases = [case for case in run["cases"] if "gflops" in case]
    assert len(drawn) == len(cases) >= 10
    words = [node.text for node in elements(svg, "text")]
    for case in cases:
        colour = chart.COLOURS[0 if case["dtype"] == "bf16" else 1]
        assert any(math.isclose(x, case["flops"] / case["bytes"], rel_tol=0.01)
                   and math.isclose(y, case["flops"] / case["median_ms"] / 1e6, rel_tol=0.01)
                   and fill == colour for x, y, fill in drawn), case["name"]
        assert case["name"].replace(f" {case['dtype']}", "") in words
    machine = run["machine"]
    title = words[0]
    assert machine["processor"] in title and machine["instruction_set"] in title
    for shown in [f"libtorch's matmul bf16: {machine['bf16_matmul_gflops']:.0f} GFLOP/s",
                  f"multiply-adds fp32: {machine['fp32_fma_gflops']:.0f} GFLOP/s",
                  f"reading memory: {machine['read_gbs']:.0f} GB/s"]:
        assert shown in words


def test_a_case_above_its_roof_is_said(tmp_path):
    run = json.loads(RUN_OF_ROOFLINE.read_text())
    run["machine"]["bf16_fma_gflops"] /= 2
    run["cases"][0]["share_of_floor"] = 1.5
    (tmp_path / "run.json").write_text(json.dumps(run))
    said = done(ROOFLINE, tmp_path / "run.json", tmp_path / "roofline.svg")
    assert said.returncode == 0 and run["cases"][0]["name"] in said.stderr


# --- Beside llama.cpp ----------------------------------------------------------------------------

def peer_run(tmp_path, num_rounds=3):
    """Speeds of which a reader knows the medians."""
    rounds = [{length: {"llama.cpp": {"prefill": 100.0, "decode": 10.0},
                        "dense": {"prefill": 200.0 + 10 * i, "decode": 15.0},
                        "zigzag": {"prefill": 400.0 - 20 * i, "decode": 20.0 + i}}
               for length in ("512", "2048")} for i in range(num_rounds)]
    run = {"machine": {"processor": "A processor", "threads": 2}, "date": "2026-01-02",
           "model": "name.Q4_1.gguf", "peer": "llama-cpp-python 1", "weights": "int8",
           "gates": "name.json", "sparsity": 0.5, "rounds": rounds}
    path = tmp_path / "run.json"
    path.write_text(json.dumps(run))
    return path


def test_the_table_has_medians_and_their_ranges(tmp_path):
    document = tmp_path / "README.md"
    document.write_text("before\n<!-- peers:llama-cpp -->\nold\n<!-- /peers -->\nafter\n")
    said = done(PEERS, "--from", peer_run(tmp_path), "--document", document)
    said.check_returncode()
    assert ("| 512 | prefill | 100 | 210: 2.10 times [2.00, 2.20] | 380: 3.80 times [3.60, 4.00] |"
            in said.stdout)
    assert "| 2,048 | decode | 10 | 15: 1.50 times [1.50, 1.50] | 21: 2.10 times" in said.stdout
    text = document.read_text()
    assert text.startswith("before\n<!-- peers:llama-cpp -->\nA processor, 2 threads")
    assert said.stdout.strip() in text and "old" not in text
    assert text.endswith("<!-- /peers -->\nafter\n")


def test_the_plot_has_a_line_for_each(tmp_path):
    done(PEERS, "--from", peer_run(tmp_path), "--plot", tmp_path / "p.svg").check_returncode()
    svg = (tmp_path / "p.svg").read_text()
    check_words(svg, chart.HEIGHT)
    words = [node.text for node in elements(svg, "text")]
    for name in ["llama.cpp, Q4_1", "loza int8, dense", "loza int8, zigzag"]:
        assert words.count(name) == 1  # one legend for both panels
    dots = [(float(node.get("cx")), float(node.get("cy"))) for node in elements(svg, "circle")]
    assert len(dots) == 2 * 3 * 2
    prefill, decode = dots[:6], dots[6:]
    assert max(x for x, _ in prefill) < min(x for x, _ in decode)
    heights = [dots[2 * i][1] for i in range(3)]  # llama.cpp, dense, zigzag at 512
    zero = next(float(node.get("y")) - 4 for node in elements(svg, "text") if node.text == "0")
    shares = [(zero - y) / (zero - heights[2]) for y in heights]
    assert shares == pytest.approx([100 / 380, 210 / 380, 1], abs=0.01)


# Answers as loza and the peer would, at once.
STAND_IN = """#!{python}
import json, sys
words = sys.argv[1:]
length = int(words[words.index("--lengths") + 1])
row = {{"length": length, "version": "peer 1", "decode_tokens_per_s": 5.0}}
if words[0] != "bench":
    print(json.dumps([row | {{"prefill_tokens_per_s": 50.0}}]))
else:
    assert words[words.index("--gates") + 1].endswith("some-gates.json")
    print(json.dumps([row | {{"plan": plan, "prefill_tokens_per_s": 100.0}}
                      for plan in ("dense", "some-gates")]))
"""


def test_rounds_are_kept(tmp_path):
    program = tmp_path / "stand_in"
    program.write_text(STAND_IN.format(python=sys.executable))
    program.chmod(0o755)
    said = subprocess.run(
        [sys.executable, PEERS, "name.Q4_1.gguf", "folder", "--python", program, "--gates",
         "gates/some-gates.json", "--rounds", "2", "--lengths", "512,2048", "--json",
         tmp_path / "run.json"], capture_output=True, text=True, env={"LOZA": str(program)})
    assert said.returncode == 0, said.stderr
    run = json.loads((tmp_path / "run.json").read_text())
    assert [sorted(found) for found in run["rounds"]] == [["2048", "512"]] * 2
    assert run["rounds"][0]["512"]["zigzag"] == {"prefill": 100.0, "decode": 5.0}
    assert run["gates"] == "some-gates.json" and run["peer"] == "peer 1"
    assert "| 512 | prefill | 50 | 100: 2.00 times [2.00, 2.00] |" in said.stdout


# --- Documents -----------------------------------------------------------------------------------

def test_only_what_was_made_is_filled(tmp_path):
    path = tmp_path / "page.md"
    other = "<!-- a:other -->\nkept\n<!-- /a -->\n<!-- b:one -->\nkept\n<!-- /b -->\n"
    path.write_text("<!-- a:one -->\nold\n<!-- /a -->\n" + other)
    documents.fill(path, "a", {"one": documents.table([["x", "y"], ["1", "2"]])})
    assert path.read_text() == ("<!-- a:one -->\n| x | y |\n| --- | --- |\n| 1 | 2 |\n<!-- /a -->\n"
                                + other)


def test_documents_show_what_the_runs_have(tmp_path):
    shutil.copy(ROOT / "README.md", tmp_path)
    done(ROOFLINE, RUN_OF_ROOFLINE, tmp_path / "attention-roofline.svg").check_returncode()
    done(PEERS, "--from", RUN_OF_PEERS, "--plot", tmp_path / "beside-llama-cpp.svg", "--document",
         tmp_path / "README.md").check_returncode()
    assert (tmp_path / "README.md").read_text() == (ROOT / "README.md").read_text()
    assert "<!-- peers:llama-cpp -->" in (ROOT / "README.md").read_text()
    for name in ["attention-roofline.svg", "beside-llama-cpp.svg"]:
        assert (tmp_path / name).read_text() == (ROOT / "docs" / name).read_text(), name


@pytest.mark.parametrize("text, expected", [
    (None, "No such file"), ("no JSON", "expected the JSON of a run, got"),
    ("[]", "expected the JSON of a run with"), ("{}", "expected the JSON of a run with")])
def test_what_is_no_run_is_one_line(text, expected, tmp_path):
    run, svg = tmp_path / "run.json", tmp_path / "drawn.svg"
    if text is not None:
        run.write_text(text)
    for command in ([ROOFLINE, run, svg], [PEERS, "--from", run, "--plot", svg]):
        ended = done(*command)
        assert ended.returncode == 1 and not svg.exists()
        assert f"{run}: {expected}" in ended.stderr and ended.stderr.count("\n") == 1
