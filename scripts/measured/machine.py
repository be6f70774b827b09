"""What a measurement was made on."""

import os
import platform
import subprocess


def machine(device):
    facts = {"device": device, "processor": platform.processor() or platform.machine()}
    try:
        for line in open("/proc/cpuinfo"):
            if line.startswith("model name"):
                facts["processor"] = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    facts["cores"] = len(os.sched_getaffinity(0))
    if device != "cpu":
        query = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
                               capture_output=True, text=True)
        facts["gpu"] = query.stdout.split("\n")[0].strip()
    return facts
