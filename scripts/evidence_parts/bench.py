"""Runs loza for the stages of the evidence, and keeps what one stage makes for another."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time


class Bench:
    """One model, measured into one folder."""

    def __init__(self, options, loza):
        self.program = loza
        self.model = pathlib.Path(options.model)
        self.out = pathlib.Path(options.out)
        self.models = self.out / "models"
        self.gates = self.out / "gates"
        self.fast = options.fast
        self.device = options.device
        self.prose, self.code = options.prose, options.code
        self.train_prose, self.train_code = options.train_text
        self.context = json.loads((self.model / "config.json").read_text())[
            "max_position_embeddings"]
        for folder in (self.out / "parts", self.models, self.gates):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def is_small(self):
        """Made for so short a context that blocks of 128 would leave nothing out."""
        return self.context <= 2048

    def loza(self, *words, environment=()):
        command = [self.program, *map(str, words), "--json"]
        print("+", " ".join(command), file=sys.stderr, flush=True)
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True,
                              env={**os.environ, **dict(environment)})
        if done.returncode != 0:
            raise SystemExit(f"evidence: loza ended with {done.returncode}: {' '.join(command)}")
        return json.loads(done.stdout)

    def on_device(self):
        return ["--device", self.device]

    def texts(self):
        return ["--prose", self.prose, "--code", self.code]

    def pattern(self):
        """Of plans and conversions."""
        return ["--block-size", 16] if self.is_small else []

    def evaluate(self, models, tasks, lengths, *options, documents=None):
        if documents is None:
            documents = 1 if self.fast else 12 if self.is_small else 2
        if self.is_small:  # as many as half of its context has room for
            options = ["--questions", 4, *options]
        return self.loza("eval", *models, "--tasks", ",".join(tasks), "--lengths",
                         ",".join(map(str, lengths)), "--documents", documents, "--seed", 1000,
                         *self.texts(), *self.on_device(), *options)

    def calibrate(self, name, *options):
        gates = self.gates / f"{name.replace(' ', '-').replace(',', '')}.json"
        start = time.time()
        report = self.loza("calibrate", self.model, "--out", gates, *self.texts(),
                           *self.on_device(), *options)
        for seed in report["seeds"]:
            del seed["trajectory"], seed["losses"]
        return {"seconds": time.time() - start, "report": report}

    def convert(self, source, target, *options):
        shutil.rmtree(target, ignore_errors=True)
        self.loza("convert", source, target, *options)
        return target

    def train(self, source, target, *options):
        for folder in (target, pathlib.Path(f"{target}.run")):
            shutil.rmtree(folder, ignore_errors=True)
        report = self.loza("train", source, target, *self.texts(), *self.on_device(), *options)
        shutil.rmtree(f"{target}.run", ignore_errors=True)
        del report["log"]
        return report

    def alpha_gates(self):
        return self.gates / "alpha.json"

    def zigzag(self):
        """The model with the half of its modules streaming that alpha found."""
        target = self.models / "zigzag"
        if not target.exists():
            making = self.models / f"zigzag.{os.getpid()}"
            self.convert(self.model, making, "--gates", self.alpha_gates(), "--sparsity", 0.5,
                         *self.pattern())
            try:
                making.rename(target)
            except OSError:  # a stage beside this one was first
                shutil.rmtree(making)
        return target

    def measured(self, stage):
        """What an earlier stage found."""
        return json.loads((self.out / "parts" / f"{stage}.json").read_text())["result"]
