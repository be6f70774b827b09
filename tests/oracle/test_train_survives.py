"""`loza train` under misfortune: killed at any moment, a full disk, folders that can't be written,
damaged data. Each ends in one clear line or goes on as if nothing had been; the last snapshot is
whole. And the memory of a step, which must grow with a streaming model's length and no faster.
LOZA names the program."""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import tempfile
import time

import pytest
from test_models import LOZA, edit_config, run_loza
from test_train import ROWS

NUM_CHAINS, KILLS_A_CHAIN = 5, 10
STEPS = 30
NOBODY = 65534


@pytest.fixture(scope="module")
def public():
    """A folder that other users may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield pathlib.Path(folder)


@pytest.fixture(scope="module")
def model(public):
    run_loza("make-tiny", public / "model", "--family", "llama", "--seed", 3)
    return public / "model"


@pytest.fixture(scope="module")
def rows(public):
    path = public / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def command(model, rows, out, *options):
    return [*map(str, [LOZA, "train", model, out, "--data", rows, "--length", 128, "--batch", 2,
                       "--steps", STEPS, "--save-every", 1, "--lr", 1e-3, "--dtype", "bf16", *options])]


def run(args, **options):
    return subprocess.run(args, capture_output=True, text=True, **options)


def contents(folder):
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}


def losses(run_folder):
    """By step; of a step that was done again the later line counts."""
    lines = (run_folder / "log.jsonl").read_text().splitlines()
    return {step["step"]: step["loss"] for step in map(json.loads, lines)}


def snapshots(run_folder):
    return sorted(path for path in run_folder.glob("step-*") if path.name[5:].isdigit())


def assert_one_line(done, code, *says):
    """The error, beside what tells of progress."""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error ")]
    assert done.returncode == code and len(errors) == 1, done.stderr
    assert all(text in errors[0] for text in says), errors[0]


def lines_of(path):
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def killed_after_some_steps(args, run_folder, rng):
    """Whether it was still running when it was killed."""
    log = run_folder / "log.jsonl"
    goal = lines_of(log) + rng.randrange(4)
    process = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while goal and lines_of(log) < goal and process.poll() is None:
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.03))
    was_running = process.poll() is None
    process.kill()
    stderr = process.communicate()[1].decode()
    assert process.returncode in (-signal.SIGKILL, 0), stderr
    return was_running


@pytest.fixture(scope="module")
def whole(model, rows, tmp_path_factory):
    """The model that was never disturbed."""
    out = tmp_path_factory.mktemp("whole") / "model"
    done = run(command(model, rows, out))
    assert done.returncode == 0, done.stderr
    return out


def chain_of_kills(model, rows, out, seed):
    """The number of kills that met a running process; then a run to the end."""
    rng, run_folder = random.Random(seed), pathlib.Path(f"{out}.run")
    num_kills = 0
    while num_kills < KILLS_A_CHAIN:
        resume = ["--resume"] if run_folder.exists() else []
        num_kills += killed_after_some_steps(command(model, rows, out, *resume), run_folder, rng)
        assert not out.exists(), "a model before the last step"
    done = run(command(model, rows, out, "--resume"))
    assert done.returncode == 0, done.stderr
    return num_kills


def test_fifty_kills(model, rows, whole, tmp_path):
    outs = [tmp_path / f"killed-{i}" for i in range(NUM_CHAINS)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        counts = list(pool.map(lambda i: chain_of_kills(model, rows, outs[i], i), range(NUM_CHAINS)))
    assert sum(counts) == 50
    for out in outs:
        assert contents(out) == contents(whole)
        run_folder, whole_run = (pathlib.Path(f"{folder}.run") for folder in (out, whole))
        assert losses(run_folder) == losses(whole_run)
        assert [s.name for s in snapshots(run_folder)] == [f"step-{STEPS - 1:08}", f"step-{STEPS:08}"]
        assert contents(snapshots(run_folder)[-1]) == contents(snapshots(whole_run)[-1])
        assert not list(run_folder.glob("step-*.part*")), "what killed processes left is not removed"


class StoppedRun:
    """A run that was killed after a few steps, and what must stay as it is until it goes on."""

    def __init__(self, folder, model, rows, whole, begun):
        self.model, self.rows, self.whole = model, rows, whole
        self.out, self.folder = folder / "out", folder / "out.run"
        shutil.copytree(begun, self.folder)
        self.last = snapshots(self.folder)[-1]
        self.before = contents(self.last)

    def resume(self, *options, rows=None, **how):
        return run(command(self.model, rows or self.rows, self.out, "--resume", *options), **how)

    def check_goes_on(self):
        """Nothing was lost: the last snapshot is whole and leads to the undisturbed model."""
        assert not self.out.exists()
        assert snapshots(self.folder)[-1] == self.last and contents(self.last) == self.before
        done = self.resume()
        assert done.returncode == 0, done.stderr
        assert contents(self.out) == contents(self.whole)


@pytest.fixture(scope="module")
def begun(model, rows, tmp_path_factory):
    out = tmp_path_factory.mktemp("begun") / "out"
    process = subprocess.Popen(command(model, rows, out), stderr=subprocess.DEVNULL)
    while len(snapshots(pathlib.Path(f"{out}.run"))) < 2 and process.poll() is None:
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    return pathlib.Path(f"{out}.run")


@pytest.fixture
def stopped(model, rows, whole, begun, public):
    with tempfile.TemporaryDirectory(dir=public) as folder:
        os.chmod(folder, 0o755)
        yield StoppedRun(pathlib.Path(folder), model, rows, whole, begun)


def allow_small_files():
    """No file over 64 KiB, which a snapshot's is; a write beyond it is an error, no signal."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))


def test_files_too_large(stopped):
    done = stopped.resume(preexec_fn=allow_small_files, restore_signals=False)
    assert_one_line(done, 1, "bytes to be written", "File too large")
    stopped.check_goes_on()


FULL_DISK = """
mount -t tmpfs -o size="$1" tmpfs "$2" || exit 99
cp -r "$3" "$2/out.run" && shift 3 && "$@"
code=$?
rm -rf "$RUN" && cp -r "$DISK/out.run" "$RUN"
exit $code
"""


def test_full_disk(stopped, tmp_path):
    """On a disk of its own, with room for half a snapshot more."""
    disk = tmp_path / "disk"
    disk.mkdir()
    used = sum(p.stat().st_size for p in stopped.folder.rglob("*") if p.is_file())
    one = sum(p.stat().st_size for p in stopped.last.rglob("*"))
    done = run(["unshare", "--mount", "sh", "-c", FULL_DISK, "sh", str(used + one // 2), str(disk),
                str(stopped.folder), *command(stopped.model, stopped.rows, disk / "out", "--resume")],
               env={**os.environ, "RUN": str(stopped.folder), "DISK": str(disk)})
    if done.returncode == 99 or "unshare failed" in done.stderr:
        pytest.skip("no file system may be mounted here")
    assert_one_line(done, 1, "bytes to be written", "No space left on device")
    stopped.check_goes_on()


def test_log_on_a_full_disk(stopped):
    log = stopped.folder / "log.jsonl"
    log.unlink()
    log.symlink_to("/dev/full")
    assert_one_line(stopped.resume(), 1, "log.jsonl: expected to be written", "disk full?")
    log.unlink()
    stopped.check_goes_on()


def nobody():
    """Permissions don't bind root."""
    return dict(user=NOBODY, group=NOBODY, extra_groups=[]) if os.getuid() == 0 else {}


def may_run():
    try:
        return run([LOZA, "--version"], **nobody()).returncode == 0
    except PermissionError:
        return False


@pytest.fixture
def readable(stopped):
    """A run whose own folders may only be read."""
    if not may_run():
        pytest.skip("the program is not for other users")
    set_modes(stopped.out.parent, 0o555, 0o444)
    yield stopped
    set_modes(stopped.out.parent, 0o755, 0o644)


def set_modes(root, of_folders, of_files):
    for path in [root, *root.rglob("*")]:
        os.chmod(path, of_folders if path.is_dir() else of_files)


def test_run_folder_that_is_read_only(readable):
    assert_one_line(readable.resume(**nobody()), 1, "log.jsonl: expected to be written")
    readable.check_goes_on()


def test_snapshots_that_cannot_be_written(readable):
    os.chmod(readable.folder / "log.jsonl", 0o666)
    done = readable.resume(**nobody())
    assert_one_line(done, 1, "step-", "expected a folder that can be created", "Permission denied")
    readable.check_goes_on()


def test_model_that_cannot_be_written(readable):
    """Found at the end, after the last snapshot: nothing is trained twice."""
    set_modes(readable.folder, 0o777, 0o666)
    done = readable.resume(**nobody())
    assert_one_line(done, 1, "out", "expected a folder that can be created", "Permission denied")
    assert snapshots(readable.folder)[-1].name == f"step-{STEPS:08}"
    done = readable.resume("--json")
    assert json.loads(done.stdout)["steps"] == 0
    assert contents(readable.out) == contents(readable.whole)


def test_run_folder_under_a_file(model, rows, tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in [["--run", tmp_path / "file/run"], []]:
        done = run(command(model, rows, tmp_path / "file/out", *out))
        assert_one_line(done, 1, str(tmp_path / "file"), "Not a directory")
    assert (tmp_path / "file").read_text() == "mine"


def test_data_that_is_damaged(stopped, tmp_path):
    data = stopped.rows.read_bytes()
    second_line = data.index(b"\n") + 1
    for name, damaged, says in [
        ("rows.jsonl", data[:second_line + 40], "rows.jsonl:2: expected"),
        ("rows.jsonl", data[:second_line] + b"\n" + data[second_line:], "rows.jsonl:2: expected"),
        ("rows.jsonl", data.replace(b'"answer"', b'"anwser"'), "rows.jsonl:2: expected"),
        ("rows.jsonl", b"", "rows.jsonl: expected one JSON object a line"),
        ("prose.txt", "na\u00efve".encode()[:3], "prose.txt: expected a text in UTF-8"),
        ("prose.txt", None, "prose.txt: expected a readable file"),
    ]:
        path = tmp_path / name
        path.unlink(missing_ok=True)
        if damaged is not None:
            path.write_bytes(damaged)
        assert_one_line(stopped.resume(rows=path), 3, says)
    stopped.check_goes_on()


def test_memory_grows_with_the_length(tmp_path, monkeypatch):
    """Twice the tokens, twice the memory above what the program itself takes."""
    # Else the allocator keeps pieces of large blocks for later, more or fewer by chance.
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    run_loza("make-tiny", tmp_path / "model", "--family", "qwen3", "--seed", 3)
    streaming = dict(sink_size=16, recent_size=48, sparsity=1.0, layer_type="1111", block_size=16)
    edit_config(tmp_path / "model", streaming, old_rope=False)
    rng = random.Random(5)

    def peak_mib(length):
        (tmp_path / "text.txt").write_text("".join(rng.choices("bcdfgjkm", k=length)))  # no merges
        report = json.loads(run_loza(
            "train", tmp_path / "model", tmp_path / f"out-{length}", "--data", tmp_path / "text.txt",
            "--length", length, "--batch", 1, "--steps", 1, "--recompute", "--dtype", "fp32", "--json"))
        assert report["tokens"] == length
        assert report["peak_mib_by_length"].keys() == {str(length)}
        return report["peak_mib_by_length"][str(length)]

    peaks = [peak_mib(length) for length in (2048, 4096, 8192, 16384)]
    growth = [after - before for before, after in zip(peaks, peaks[1:])]
    print("peak MiB at 2k, 4k, 8k, 16k:", [round(peak) for peak in peaks])
    assert all(1.8 < after / before < 2.2 for before, after in zip(growth, growth[1:])), peaks
    assert growth[-1] < 100, "more than 12 KB a token"
