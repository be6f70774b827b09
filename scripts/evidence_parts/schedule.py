"""Runs stages: one after another, or several at a time on several GPUs."""

import dataclasses
import os
import subprocess
import sys
import time

MAX_STAGES_PER_GPU = 4  # launching kernels keeps most of them busy
MAX_LARGE_PER_GPU = 2


def wanted_of(stages, bench, names):
    """The named stages (or all that say something of the model), in order, each needing those alone
    that this model has."""
    known = [stage.name for stage in stages]
    for name in names:
        if name not in known:
            raise SystemExit(f"evidence: --stages: one of {', '.join(known)}, got '{name}'")
    fits = [stage for stage in stages
            if (stage.is_fast or not bench.fast) and (stage.for_small or not bench.is_small)]
    there = {stage.name for stage in fits}
    return [dataclasses.replace(stage, needs=tuple(set(stage.needs) & there))
            for stage in fits if not names or stage.name in names]


class Running:
    def __init__(self, stage, gpu, command, log):
        self.stage, self.gpu, self.begun = stage, gpu, time.time()
        self.log = open(log, "w")
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": gpu}
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, env=environment)


def visible_gpus(count):
    """Names of that many GPUs, of those that CUDA_VISIBLE_DEVICES lets us see."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(gpu) for gpu in range(count)]
    if len(names) < count:
        raise SystemExit(f"evidence: --gpus: at most {len(names)}, as CUDA_VISIBLE_DEVICES has, "
                         f"got {count}")
    return names[:count]


def is_free(gpu, stage, running):
    here = [run.stage for run in running if run.gpu == gpu]
    if any(other.is_alone for other in here) or (stage.is_alone and here):
        return False
    if stage.is_large and sum(other.is_large for other in here) >= MAX_LARGE_PER_GPU:
        return False
    return len(here) < MAX_STAGES_PER_GPU


def run_on_gpus(wanted, num_gpus, command_of, part_of, logs):
    """command_of(stage) measures one stage and leaves its part. What needs a stage that failed, or
    was never measured, is not run. Returns the names of what did not come out."""
    gpus = visible_gpus(num_gpus)
    waiting, running, failed = list(wanted), [], []
    names = {stage.name for stage in wanted}
    while waiting or running:
        for run in [run for run in running if run.process.poll() is not None]:
            running.remove(run)
            run.log.close()
            came = run.process.returncode == 0 and part_of(run.stage.name).exists()
            print(f"evidence: {run.stage.name}: {'done' if came else 'FAILED, see ' + run.log.name}"
                  f" after {time.time() - run.begun:.0f} s", file=sys.stderr, flush=True)
            if not came:
                failed.append(run.stage.name)
        blocked = [stage for stage in waiting if any(
            need in failed or (need not in names and not part_of(need).exists())
            for need in stage.needs)]
        for stage in blocked:
            print(f"evidence: {stage.name}: not run, needs {', '.join(stage.needs)}",
                  file=sys.stderr, flush=True)
            waiting.remove(stage)
            failed.append(stage.name)
        for stage in [stage for stage in waiting
                      if all(part_of(need).exists() for need in stage.needs)]:
            free = [gpu for gpu in gpus if is_free(gpu, stage, running)]
            if not free:
                continue
            gpu = min(free, key=lambda gpu: sum(run.gpu == gpu for run in running))
            waiting.remove(stage)
            running.append(Running(stage, gpu, command_of(stage), logs / f"{stage.name}.log"))
            print(f"evidence: {stage.name}: on GPU {gpu}", file=sys.stderr, flush=True)
        time.sleep(0.5)
    return failed
