"""What is measured, stage by stage. A stage is a function of a Bench; what it returns is its part."""

import dataclasses
import itertools
from typing import Callable

RETRIEVAL = ["lines", "niah", "noise"]
FAMILY = ["niah-single-1", "niah-single-2", "niah-single-3", "niah-multikey-1", "niah-multikey-2",
          "niah-multikey-3", "niah-multivalue", "niah-multiquery", "vt", "cwe", "fwe", "mrcr-2",
          "mrcr-4"]
TEXTS = ["ppl", "ppl-code"]
OF_SMALL = ["lines", "noise", "niah-multikey-2", "copy", "vt-2:1"]  # what models/mla-7m was taught

# What each criterion is called with, and over how many seeds.
CRITERIA = {
    "alpha": (3, []),
    "alpha, LM loss": (3, ["--loss", "lm"]),
    "alpha, LM loss, start 0.5": (3, ["--loss", "lm", "--start", "0.5", "--l1", "0", "--no-clamp"]),
    "alpha, no regulariser": (3, ["--l1", "0"]),
    "nll": (3, ["--criterion", "nll", "--steps", "6"]),
    "nll-mirror": (3, ["--criterion", "nll-mirror", "--steps", "6"]),
}
# How alpha is calibrated otherwise, to see how its ranking moves.
VARIATIONS = {
    "block 64": ["--block-size", "64"],
    "block 128": ["--block-size", "128"],
    "twice the length": ["--length", "1400"],
    "32 steps": ["--steps", "32"],
    "lines alone": ["--data", "lines"],
    "noise alone": ["--data", "noise"],
    "niah alone": ["--data", "niah"],
}
VARIATIONS_OF_SMALL = {
    "block 32": ["--block-size", "32"],
    "32 steps": ["--steps", "32"],
    "lines alone": ["--data", "lines"],
    "noise alone": ["--data", "noise"],
    "copy alone": ["--data", "copy"],
}
NUM_SEEDS = 3  # of the recovery runs


@dataclasses.dataclass
class Stage:
    name: str
    measure: Callable
    needs: tuple = ()       # stages whose parts, gates or models it uses
    is_large: bool = False  # keeps a GPU busy by itself, and takes up to 25 GiB of its memory
    is_alone: bool = False  # times something: nothing else may run
    is_fast: bool = True    # has a small form for two cores
    for_small: bool = True  # says something of a model for a short context


def calibrated(bench, name, seeds, *options):
    blocks = ["--length", 1024] if bench.is_small else []
    if bench.is_small and "--block-size" not in options:
        blocks += ["--block-size", 16]
    return bench.calibrate(name, "--seeds", seeds, *blocks, *options)


def gates(bench):
    """The default criterion."""
    seeds, options = CRITERIA["alpha"]
    return {"alpha": calibrated(bench, "alpha", 2 if bench.fast else seeds, *options)}


def criteria(bench):
    """All others, and the default with other settings."""
    others = {name: calibrated(bench, name, seeds, *options)
              for name, (seeds, options) in CRITERIA.items() if name != "alpha"}
    variations = VARIATIONS_OF_SMALL if bench.is_small else VARIATIONS
    return {"criteria": others,
            "variations": {name: calibrated(bench, f"alpha {name}", 1, "--first-seed", 10, *options)
                           for name, options in variations.items()}}


def lengths_of(bench):
    if bench.is_small:
        return [512] if bench.fast else [512, 1024]
    return [1536] if bench.fast else ["2k", "4k", 7600]


def tasks_of(bench):
    if bench.fast:
        return ["lines" if bench.is_small else "niah", "ppl"]
    return (OF_SMALL if bench.is_small else RETRIEVAL + ["niah-multikey-1", "vt"]) + TEXTS


def choices(bench):
    """Half of the modules streaming, chosen in every way, without any training."""
    named = {name.replace(" ", "-").replace(",", "") for name in CRITERIA}
    files = sorted(str(path) for path in bench.gates.glob("*.json") if path.stem in named)
    randoms = [f"random:{seed}" for seed in range(2 if bench.fast else 10)]
    plans = ["dense", "streaming", "interleaved", "interleaved-odd", "first", "last", *randoms]
    return bench.evaluate([bench.model], tasks_of(bench), lengths_of(bench), "--plans",
                          ",".join(plans), "--gates", ",".join(files), "--sparsity", 0.5,
                          *bench.pattern())


def sparsity(bench):
    """Other shares of streaming modules."""
    files = [path for path in (bench.alpha_gates(), bench.gates / "nll.json") if path.exists()]
    tasks = tasks_of(bench) if bench.is_small or bench.fast else RETRIEVAL + TEXTS
    return {str(share): bench.evaluate([bench.model], tasks, lengths_of(bench), "--plans", "dense",
                                       "--gates", ",".join(map(str, files)), "--sparsity", share,
                                       *bench.pattern())
            for share in ([0.5] if bench.fast else [0.25, 0.5, 0.75])}


def trained(bench, kind, seed):
    return bench.models / f"{kind}-{seed}"


def recovery_options(bench):
    """Half tasks, half text."""
    texts = f"{bench.train_prose}*2,{bench.train_code}"
    if bench.fast:
        return ["--data", f"lines,noise,{texts}", "--length", 512, "--steps", 2, "--batch", 2,
                "--questions", 4]
    if bench.is_small:
        return ["--data", f"{','.join(OF_SMALL)},{texts}", "--length", 1024, "--steps", 200,
                "--batch", 32, "--pass-tokens", 32768, "--lr", 3e-4]
    return ["--data", f"lines*2,niah,noise,{bench.train_prose}*2,{bench.train_code}*2", "--length",
            "2k:30,4k:15,7k:22", "--batch", 8, "--pass-tokens", 16384, "--lr", 1e-4, "--questions",
            16]


def recover(kind, seed):
    """A short training run of the zigzag model, or of the dense one as its control."""
    def measure(bench):
        source = bench.zigzag() if kind == "zigzag" else bench.model
        return bench.train(source, trained(bench, kind, seed), *recovery_options(bench), "--seed",
                           seed)
    return measure


def recovery(bench):
    """How the recovered models score."""
    runs = [(kind, seed) for kind in ("dense", "zigzag") for seed in range(num_seeds(bench))]
    models = [bench.model, *(trained(bench, *run) for run in runs)]
    tasks = tasks_of(bench)
    if not bench.fast and not bench.is_small:
        tasks = RETRIEVAL + FAMILY + TEXTS
    return {"training": {f"{kind}-{seed}": bench.measured(f"recover-{kind}-{seed}")
                         for kind, seed in runs},
            "scores": bench.evaluate(models, tasks, lengths_of(bench))}


def num_seeds(bench):
    return 1 if bench.fast else NUM_SEEDS


def to_32k(bench):
    """Four times the context: YaRN and a short run, zigzag and dense alike."""
    result, models = {"training": {}}, []
    for kind in ("dense", "zigzag"):
        wide = bench.convert(trained(bench, kind, 0), bench.models / f"{kind}-wide", "--rope",
                             "yarn", "--factor", 4)
        target = bench.models / f"{kind}-32k"
        result["training"][kind] = bench.train(
            wide, target, "--data", f"lines*3,niah,noise,{bench.train_prose}*2,{bench.train_code}",
            "--length", "8k:16,16k:16,32k:12", "--batch", 4, "--pass-tokens", 32768, "--lr", 2e-4,
            "--questions", 96)
        models += [wide, target]
    result["scores"] = bench.evaluate(models, RETRIEVAL + TEXTS, ["4k", "8k", "16k", "32k"],
                                      "--questions", 16, documents=3)
    return result


STRETCHED = ["--rope", "yarn", "--factor", 128]
BY_KIND = [*STRETCHED, "--rope-of", "full"]
# A window that is longer than any document: streaming in name and RoPE, seeing everything.
SEES_ALL = ["--recent-blocks", 16384]

# Stage: what is trained, from which model, converted how.
MILLION = {
    "million": ("zigzag, RoPE by kind", "zigzag", [*BY_KIND, "--sink", "capped"]),
    "million-dense": ("dense, YaRN everywhere", "dense", STRETCHED),
    "million-yarn": ("zigzag, YaRN everywhere", "zigzag", STRETCHED),
    "million-dense-split": ("dense, RoPE by kind", "dense", [*BY_KIND, *SEES_ALL]),
}


def to_million(stage):
    """From 8K to a million tokens: half text while documents are short, tasks when they are long,
    half of those spread over a million positions."""
    name, kind, options = MILLION[stage]

    def measure(bench):
        gates = ["--gates", bench.alpha_gates()] if options[-2:] == SEES_ALL else []
        wide = bench.convert(trained(bench, kind, 0), bench.models / f"{stage}-wide", *gates,
                             *options)
        near, target = bench.models / f"{stage}-near", bench.models / stage
        texts = f"{bench.train_prose}*3,{bench.train_code}*3"
        training = [
            bench.train(wide, near, "--data", f"niah*2,noise*2,lines*2,{texts}", "--length",
                        "8k:48,16k:24,32k:12", "--batch", 4, "--pass-tokens", 32768, "--lr", 4e-4,
                        "--final-lr", 0.4, "--questions", 64),
            bench.train(near, target, "--data", f"niah*6,noise*6,lines*6,{texts}", "--length",
                        "64k:8,128k:4,256k:2", "--batch", 2, "--pass-tokens", 65536, "--lr", 1.6e-4,
                        "--final-lr", 0.1, "--questions", 128, "--recompute", "--spread-to", "1m",
                        "--spread-share", 0.5),
        ]
        return {name: {"training": training, **scores_in_short(bench, target)}}

    return measure


def scores_in_short(bench, target):
    """Texts at 8K beside the original model, needles in the trained and other words at 32K, 128K."""
    return {"short": bench.evaluate([bench.model, target], TEXTS, ["8k"], documents=8),
            "scores": bench.evaluate([target], RETRIEVAL + ["niah:1", "niah:2"], ["32k", "128k"],
                                     "--questions", 32, documents=1)}


def far(stage, task, documents):
    """Half a million and a million tokens."""
    def measure(bench):
        report = bench.evaluate([bench.models / stage], [task], ["512k", "1m"], "--questions", 32,
                                documents=documents)
        return {MILLION[stage][0]: {f"far-{task}": report}}

    return measure


OTHERS = [stage for stage in MILLION if stage != "million"]
FAR_TASKS = ["niah", "noise"]  # of every variant; the best two are asked for lines as well


def best_other(bench):
    """Whichever of the other variants answered most at half a million and a million tokens."""
    def hits(stage):
        reports = [bench.measured(f"{stage}-far-{task}")[MILLION[stage][0]][f"far-{task}"]
                   for task in FAR_TASKS]
        return sum(cell["exact_match"]["value"] for report in reports for cell in report["cells"])

    return max(OTHERS, key=hits)


def second(task):
    """Three documents of a million tokens for the second best variant too."""
    def measure(bench):
        stage = best_other(bench)
        report = bench.evaluate([bench.models / stage], [task], ["1m"], "--questions", 32,
                                documents=3)
        return {MILLION[stage][0]: {f"second-{task}": report}}

    return measure


def speed(bench):
    """Both plans of one model; on a GPU also with libtorch's attention alone."""
    longer = [] if bench.device == "cpu" else ["64k", "128k"]  # half an hour for one dense prompt
    lengths = ["1k"] if bench.fast else ["1k", "4k", "16k", "32k", *longer]
    words = ["bench", bench.zigzag(), "--lengths", ",".join(lengths), *bench.on_device()]
    result = {"loza": bench.loza(*words)}
    if bench.device != "cpu":
        result["libtorch"] = bench.loza(*words, environment={"LOZA_ATTENTION": "libtorch"})
    return result


# Of seed 0 first: the long runs go on from its models.
RECOVER = [Stage(f"recover-{kind}-{seed}", recover(kind, seed),
                 needs=("gates",) if kind == "zigzag" else (), is_fast=seed == 0)
           for seed, kind in itertools.product(range(NUM_SEEDS), ("dense", "zigzag"))]


def large(name, measure, *needs):
    return Stage(name, measure, needs, is_large=True, is_fast=False, for_small=False)


# In the order in which they are begun: what others wait for first, and the longest.
STAGES = [
    Stage("gates", gates),
    *RECOVER[:2],
    large("million-dense-split", to_million("million-dense-split"), "gates", "recover-dense-0"),
    large("million", to_million("million"), "recover-zigzag-0"),
    large("million-dense", to_million("million-dense"), "recover-dense-0"),
    large("million-yarn", to_million("million-yarn"), "recover-zigzag-0"),
    Stage("criteria", criteria, is_fast=False),
    *RECOVER[2:],
    *(large(f"million-far-{task}", far("million", task, documents=3), "million")
      for task in [*FAR_TASKS, "lines"]),
    Stage("32k", to_32k, ("recover-dense-0", "recover-zigzag-0"), is_fast=False, for_small=False),
    Stage("recovery", recovery, tuple(stage.name for stage in RECOVER)),
    Stage("choices", choices, ("gates", "criteria")),
    Stage("sparsity", sparsity, ("gates", "criteria")),
    *(large(f"{stage}-far-{task}", far(stage, task, documents=1), stage)
      for stage in OTHERS for task in FAR_TASKS),
    *(large(f"million-second-{task}", second(task),
            *(f"{stage}-far-{task}" for stage in OTHERS for task in FAR_TASKS))
      for task in [*FAR_TASKS, "lines"]),
    Stage("speed", speed, ("gates",), is_alone=True, for_small=False),
]
