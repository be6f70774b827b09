"""From what scripts/evidence measured to results.json, report.html and the tables in the documents.

A table is a list of rows of strings, the first one its heading. Documents name those that they show
as "evidence".
"""

import html
import json

import chart
import documents

NEEDLES = ["niah", "noise", "lines"]
SMALL = "mla-7m"  # the folder of the small model
TEXTS = {"ppl": "prose", "ppl-code": "code"}


def cell(report, task, length, subject):
    for found in report["cells"]:
        if (found["task"], found["length"], found["subject"]) == (task, length, subject):
            return found
    return None


def lengths_of(report):
    return sorted({found["length"] for found in report["cells"]})


def tasks_of(report):
    return list(dict.fromkeys(found["task"] for found in report["cells"]))


def length_name(length):
    if length >= 1 << 20 and length % (1 << 20) == 0:
        return f"{length >> 20}M"
    return f"{length >> 10}K" if length % 1024 == 0 else f"{length:,}"


def percent(found):
    hits = found["exact_match"]
    return f"{100 * hits['value']:.0f}"


def with_interval(found):
    hits = found["exact_match"]
    return f"{100 * hits['value']:.0f} [{100 * hits['low']:.0f}, {100 * hits['high']:.0f}]"


def score(found, interval=False):
    """Hits in percent and nats an answer token, or nats a token of a text."""
    if found is None:
        return ""
    if found["exact_match"] is None:
        return f"{found['nll']['value']:.3f}"
    return f"{with_interval(found) if interval else percent(found)} / {found['nll']['value']:.2f}"


def by_length(report, tasks, subjects, interval=False):
    """Subjects down; each task's lengths, or its one mean over lengths, across."""
    lengths = lengths_of(report)
    heading = [""] + [f"{TEXTS.get(task, task)} {length_name(length)}"
                      for task in tasks for length in lengths]
    rows = [heading]
    for name, shown in subjects:
        rows.append([shown] + [score(cell(report, task, length, name), interval)
                               for task in tasks for length in lengths])
    return rows


def pooled(report, tasks, subject):
    """Hits over tasks and lengths together, and nats an answer token."""
    hits = answers = nats = tokens = 0
    for task in tasks:
        for length in lengths_of(report):
            found = cell(report, task, length, subject)
            if found is None or found["exact_match"] is None:
                continue
            hits += found["exact_match"]["value"] * found["answers"]
            answers += found["answers"]
            nats += found["nll"]["value"] * found["tokens"]
            tokens += found["tokens"]
    return (hits / answers, nats / tokens, answers) if answers else None


def mean_nll(report, task, subject):
    """Over the lengths at which the task was asked; None where it was not."""
    found = [cell(report, task, length, subject) for length in lengths_of(report)]
    values = [one["nll"]["value"] for one in found if one is not None]
    return sum(values) / len(values) if values else None


def nats(value):
    return "" if value is None else f"{value:.3f}"


def choices_table(report):
    rows = [["half of the modules streaming, chosen by", "hits, %", "nats an answer token",
             "prose", "code"]]
    tasks = [task for task in tasks_of(report) if task not in TEXTS]
    names = [subject["name"] for subject in report["subjects"]]
    randoms = [name for name in names if name.startswith("random")]

    def row(shown, of):
        pools = [pooled(report, tasks, name) or (float("nan"), float("nan"), 0) for name in of]
        hits = [100 * pool[0] for pool in pools]
        answer_nats = [pool[1] for pool in pools]
        texts = [[mean_nll(report, text, name) for name in of] for text in TEXTS]
        def span(values, digits):
            low, high = min(values), max(values)
            mean = sum(values) / len(values)
            return (f"{mean:.{digits}f}" if len(values) == 1 else
                    f"{mean:.{digits}f} ({low:.{digits}f} .. {high:.{digits}f})")
        return [shown, span(hits, 0), span(answer_nats, 2)] + [
            "" if None in values else span(values, 3) for values in texts]

    ordered = sorted((name for name in names if name not in randoms),
                     key=lambda name: pooled(report, tasks, name)[1])
    for name in ordered:
        shown = {"dense": "none: dense", "streaming": "all: nothing is full"}.get(name, name)
        rows.append(row(shown, [name]))
    if randoms:
        rows.append(row(f"random, {len(randoms)} draws", randoms))
    return rows


def ranks(values):
    """Of each value among all, ties sharing their mean rank."""
    ordered = sorted(values)
    return [ordered.index(value) + (ordered.count(value) - 1) / 2 for value in values]


def rank_correlation(a, b):
    a, b = ranks(a), ranks(b)
    mean = (len(a) - 1) / 2
    covariance = sum((x - mean) * (y - mean) for x, y in zip(a, b))
    scale = sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b)
    return covariance / scale**0.5 if scale > 0 else None  # all alike


def gates_runs(parts):
    """Every calibration by the name that tables show."""
    variations = parts.get("criteria", {}).get("variations", {})
    return {**parts["gates"], **parts.get("criteria", {}).get("criteria", {}),
            **{f"alpha, {name}": run for name, run in variations.items()}}


def gates_table(parts, on_two_cores):
    """on_two_cores: the same stages as they were there, or nothing."""
    runs = gates_runs(parts)
    slow = gates_runs(on_two_cores) if "gates" in on_two_cores else {}
    rows = [["gates by", "seeds", "tokens a seed", "seconds a seed",
             *(["on two cores"] if slow else []), "seeds' rank correlation",
             "same full modules, %", "tied at the cut", "rank correlation with alpha",
             "full modules of alpha's, %"]]
    alpha = runs["alpha"]["report"]

    def shown(value, form):
        return "" if value is None else format(value, form)

    def seconds(run):
        return f"{run['report']['seconds'] / len(run['report']['seeds']):.0f}"

    for name, run in runs.items():
        report = run["report"]
        count, stability = len(report["seeds"]), report["stability"]
        full = [kind == "0" for kind in report["layer_type"]]
        same = sum(mine and theirs == "0" for mine, theirs in zip(full, alpha["layer_type"]))
        rows.append([name, str(count), f"{report['tokens'] / count:,.0f}", seconds(run),
                     *([seconds(slow[name]) if name in slow else ""] if slow else []),
                     shown(stability["rank_correlation"], ".2f"),
                     shown(stability["overlap"] and 100 * stability["overlap"], ".0f"),
                     str(stability["num_tied_at_cut"]),
                     shown(rank_correlation(report["alpha"], alpha["alpha"]), ".2f"),
                     f"{100 * same / sum(full):.0f}"])
    return rows


def modules_table(parts):
    """Which modules each criterion keeps full."""
    rows = [["gates by", "full modules, most needed first"]]
    for name, run in gates_runs(parts).items():
        report = run["report"]
        full = [i for i, kind in enumerate(report["layer_type"]) if kind == "0"]
        full.sort(key=lambda i: -report["alpha"][i])
        rows.append([name, " ".join(map(str, full))])
    return rows


def sparsity_table(result):
    rows = [["modules that stream", "gates", "hits, %", "nats an answer token", "prose", "code"]]
    for share, report in result.items():
        tasks = [task for task in tasks_of(report) if task not in TEXTS]
        for subject in report["subjects"]:
            name = subject["name"]
            if name == "dense" and len(rows) > 1:
                continue
            pool = pooled(report, tasks, name)
            rows.append(["none" if name == "dense" else f"{100 * float(share):.0f} %",
                         "" if name == "dense" else name, f"{100 * pool[0]:.0f}",
                         f"{pool[1]:.2f}"] + [nats(mean_nll(report, text, name))
                                              for text in TEXTS])
    return rows


RECOVERED = [("dense-", "dense, trained alike"), ("zigzag-", "zigzag, trained")]


def recovered(report):
    """What a column shows, and its subjects: one a seed."""
    names = [subject["name"] for subject in report["subjects"]]
    return [("dense, before", names[:1])] + [
        (shown, [name for name in names[1:] if name.startswith(prefix)])
        for prefix, shown in RECOVERED]


def pooled_seeds(report, task, length, names):
    """(share of hits, nats a token, answers) over several subjects; no hits of a plain text."""
    found = [cell(report, task, length, name) for name in names]
    tokens = sum(one["tokens"] for one in found)
    nll = sum(one["nll"]["value"] * one["tokens"] for one in found) / tokens
    answers = sum(one["answers"] for one in found)
    if not answers:
        return None, nll, 0
    hits = sum(one["exact_match"]["value"] * one["answers"] for one in found)
    return hits / answers, nll, answers


def pooled_score(hits, nll):
    return f"{nll:.3f}" if hits is None else f"{100 * hits:.0f} / {nll:.2f}"


def wilson_interval(hits, answers):
    """The 95 % interval of a share."""
    z = 1.959964
    middle = (hits + z * z / (2 * answers)) / (1 + z * z / answers)
    half = z / (1 + z * z / answers) * (hits * (1 - hits) / answers
                                        + z * z / (4 * answers**2))**0.5
    return max(middle - half, 0), min(middle + half, 1)


def wilson(hits, answers):
    low, high = wilson_interval(hits, answers)
    return f"[{100 * low:.0f}, {100 * high:.0f}]"


def recovery_table(result):
    report = result["scores"]
    columns = recovered(report)
    rows = [["task", *(shown for shown, names in columns)]]
    for task in tasks_of(report):
        for length in lengths_of(report):
            rows.append([f"{TEXTS.get(task, task)} {length_name(length)}"] +
                        [pooled_score(*pooled_seeds(report, task, length, names)[:2])
                         for shown, names in columns])
    return rows


def recovery_summary(result):
    """What is in the README: needles and lines pooled, by length."""
    report = result["scores"]
    lengths = lengths_of(report)
    asked = [task for task in NEEDLES if task in tasks_of(report)]
    rows = [["hits on lines, niah and noise, %"] + [length_name(length) for length in lengths] +
            ["prose, nats", "code, nats"]]
    for shown, names in recovered(report):
        row = [shown]
        for length in lengths:
            pools = [pooled_seeds(report, task, length, names) for task in asked]
            answers = sum(pool[2] for pool in pools)
            row.append(f"{100 * sum(pool[0] * pool[2] for pool in pools) / answers:.0f}")
        texts = [[mean_nll(report, text, name) for name in names] for text in TEXTS]
        rows.append(row + [nats(None if None in values else sum(values) / len(values))
                           for values in texts])
    return rows


def recovery_tasks(result):
    """Each task over its lengths and seeds together."""
    report = result["scores"]
    columns = recovered(report)
    rows = [["task, all lengths", "answers a trained column", *(shown for shown, _ in columns)]]
    for task in tasks_of(report):
        row, answers = [], 0
        for _, names in columns:
            cells = [pooled_seeds(report, task, length, names) for length in lengths_of(report)]
            tokens = [sum(cell(report, task, length, name)["tokens"] for name in names)
                      for length in lengths_of(report)]
            nll = sum(one[1] * count for one, count in zip(cells, tokens)) / sum(tokens)
            answers = sum(one[2] for one in cells)
            if not answers:
                row.append(f"{nll:.3f}")
                continue
            hits = sum(one[0] * one[2] for one in cells) / answers
            row.append(f"{100 * hits:.0f} {wilson(hits, answers)} / {nll:.2f}")
        rows.append([TEXTS.get(task, task), str(answers) if answers else "", *row])
    return rows


def wide_table(result):
    report = result["scores"]
    shown = {"dense-wide": "dense, YaRN alone", "dense-32k": "dense, trained",
             "zigzag-wide": "zigzag, YaRN alone", "zigzag-32k": "zigzag, trained"}
    subjects = [(name, text) for name, text in shown.items()
                if any(subject["name"] == name for subject in report["subjects"])]
    return by_length(report, tasks_of(report), subjects)


def million_runs(parts):
    """Each variant with all that was found of it, in several stages."""
    runs = {}
    for stage, result in parts.items():
        if stage.startswith("million"):
            for name, found in result.items():
                runs.setdefault(name, {}).update(found)
    return runs


def long_reports(found):
    """What was scored on long documents, of one variant."""
    return [report for name, report in found.items() if name not in ("training", "short")]


def long_cell(found, task, length):
    """Of several the one with most documents; None where it was not asked."""
    cells = [one for report in long_reports(found) for one in report["cells"]
             if (one["task"], one["length"]) == (task, length)]
    return max(cells, key=lambda one: one["documents"], default=None)


LONG = (1 << 15, 1 << 17, 1 << 19, 1 << 20)


def million_table(runs):
    rows = [["", "task", *map(length_name, LONG)]]
    for name, found in runs.items():
        for task in dict.fromkeys(task for report in long_reports(found)
                                  for task in tasks_of(report)):
            cells = [long_cell(found, task, length) for length in LONG]
            rows.append([name, task, *(score(one, interval=True) if one else "not run"
                                       for one in cells)])
    return rows


def needles_found(found, length):
    """(share of hits, answers) on needles and noise together; None where none was asked."""
    cells = [cell for cell in (long_cell(found, task, length) for task in ("niah", "noise"))
             if cell is not None]
    answers = sum(one["answers"] for one in cells)
    if not answers:
        return None
    return sum(one["exact_match"]["value"] * one["answers"] for one in cells) / answers, answers


def million_summary(runs):
    """What is in the README: needles by length, and what it costs at 8K."""
    rows = [["needles found, %", *map(length_name, LONG), "prose at 8K, nats", "code at 8K, nats"]]
    for name, found in runs.items():
        report = found["short"]
        original, trained = (subject["name"] for subject in report["subjects"])
        if len(rows) == 1:
            rows.append(["the original model"] + [""] * len(LONG) +
                        [nats(mean_nll(report, text, original)) for text in TEXTS])
        pools = [needles_found(found, length) for length in LONG]
        rows.append([name] + [f"{100 * pool[0]:.0f} {wilson(*pool)}" if pool else "not run"
                              for pool in pools] +
                    [nats(mean_nll(report, text, trained)) for text in TEXTS])
    return rows


def million_chart(runs):
    """Hits on needles and noise together, by length."""
    lines = []
    for name, found in runs.items():
        points = []
        for place, length in enumerate(LONG):
            pool = needles_found(found, length)
            if pool is None:
                continue
            hits, answers = pool
            low, high = wilson_interval(hits, answers)
            points.append((place, 100 * low, 100 * hits, 100 * high))
        lines.append((name, points))
    lengths = [(place, length_name(length)) for place, length in enumerate(LONG)]
    percents = [(percent, f"{percent} %") for percent in range(0, 101, 25)]
    return chart.line_chart("Needles found (niah, noise), by length of the text",
                            [chart.Panel(lengths, percents, lines)])


def million_short_table(runs):
    rows = [["nats a token at 8K", "prose", "code"]]
    for name, found in runs.items():
        report = found["short"]
        for subject, shown in zip(report["subjects"], ("the original model", name)):
            row = [shown] + [nats(mean_nll(report, text, subject["name"])) for text in TEXTS]
            if row not in rows:
                rows.append(row)
    return rows


def million_cost_table(runs):
    """Of one document of needles."""
    rows = [["seconds / GiB of the GPU's memory", *map(length_name, LONG)]]
    for name, found in runs.items():
        row = [name]
        for length in LONG:
            one = long_cell(found, "niah", length)
            row.append(f"{one['seconds']:.2f} / {one['peak_gpu_mib'] / 1024:.0f}"
                       if one and "peak_gpu_mib" in one else "not run")
        rows.append(row)
    return rows


def training_table(parts, million):
    rows = [["run", "tokens", "seconds", "tokens/s"]]
    runs = [(f"recovery, {name}", run)
            for name, run in parts.get("recovery", {}).get("training", {}).items()]
    runs += [(f"to 32K, {name}", run)
             for name, run in parts.get("32k", {}).get("training", {}).items()]
    runs += [(f"to 1M, {name}, run {i + 1}", run) for name, found in million.items()
             for i, run in enumerate(found["training"])]
    for name, run in runs:
        rows.append([name, f"{run['tokens']:,}", f"{run['seconds']:.0f}",
                     f"{run['tokens_per_s']:,.0f}"])
    return rows


def speed_table(result):
    """result: rows of loza bench, by whose attention it was."""
    rows = [["prompt", "plan", "attention by", "prefill, tokens/s", "decode, tokens/s",
             "KV, MiB"]]
    runs = [(row, by) for by, of in result.items() for row in of if row["model"] == "zigzag"]
    for row, by in sorted(runs, key=lambda run: (run[0]["length"], run[0]["plan"], run[1])):
        plan = "zigzag" if row["plan"] == "config" else "dense"
        rows.append([length_name(row["length"]), plan, by, f"{row['prefill_tokens_per_s']:,.0f}",
                     f"{row['decode_tokens_per_s']:.1f}",
                     f"{row['kv_bytes']['total'] / 2**20:.0f}"])
    return rows


def tables_of_model(parts, on_two_cores):
    made = {}
    if "gates" in parts:
        made["gates"] = gates_table(parts, on_two_cores)
        made["modules"] = modules_table(parts)
    if "sparsity" in parts:
        made["sparsity"] = sparsity_table(parts["sparsity"])
    if "choices" in parts:
        made["choices"] = choices_table(parts["choices"])
    if "recovery" in parts:
        made["recovery"] = recovery_table(parts["recovery"])
        made["recovery-tasks"] = recovery_tasks(parts["recovery"])
    return made


def below(stages, folder):
    """The results that were measured into a folder of the evidence's, by stage."""
    return {name[len(folder):]: stage["result"] for name, stage in stages.items()
            if name.startswith(folder)}


def tables(stages):
    parts = {name: stage["result"] for name, stage in stages.items() if "/" not in name}
    on_two_cores = below(stages, "cpu/")
    made = tables_of_model(parts, on_two_cores)
    if "recovery" in parts:
        made["recovery-summary"] = recovery_summary(parts["recovery"])
    if "32k" in parts:
        made["32k"] = wide_table(parts["32k"])
    million = million_runs(parts)
    if million:
        made["million"] = million_table(million)
        made["million-summary"] = million_summary(million)
        made["million-short"] = million_short_table(million)
        made["million-cost"] = million_cost_table(million)
    if "speed" in parts:
        made["speed"] = speed_table(parts["speed"])
    if "speed" in on_two_cores:
        made["speed-cpu"] = speed_table(on_two_cores["speed"])
    made["training"] = training_table(parts, million)
    small = tables_of_model(below(stages, f"{SMALL}/"), {})
    return {**made, **{f"{SMALL}-{name}": table for name, table in small.items()}}


STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;
color:#222;background:#fff}table{border-collapse:collapse;margin:1rem 0;display:block;
overflow-x:auto}td,th{padding:.3rem .7rem;border-bottom:1px solid #ddd;text-align:right;
white-space:nowrap}td:first-child,th:first-child{text-align:left}h2{margin-top:2.5rem}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}td,th{border-color:#444}}"""

TITLES = {
    "gates": "What calibration costs, and how stable it is",
    "modules": "Which modules stay full",
    "choices": "Half of the modules streaming, without any training",
    "sparsity": "Other shares of streaming modules",
    "recovery-summary": "After a short training run",
    "recovery-tasks": "The same, task by task: hits in percent / nats an answer token",
    "recovery": "The same, by length",
    "32k": "From 8K to 32K: hits in percent / nats an answer token",
    "million": "From 8K to a million: hits in percent with their 95 % interval / nats",
    "million-short": "What it costs at 8K",
    "million-cost": "Reading one document: seconds, and memory with the weights",
    "training": "The training runs",
    "speed": "Speed and memory on the GPU",
    "speed-cpu": "Speed and memory on two cores",
}
TITLES |= {f"{SMALL}-{name}": f"{SMALL}: {title[0].lower()}{title[1:]}"
           for name, title in TITLES.items()}


def page(made, charts, stages):
    out = [f"<!doctype html><html lang='en'><meta charset='utf-8'><title>loza: evidence</title>"
           f"<meta name='viewport' content='width=device-width'><style>{STYLE}</style>"
           "<h1>What the method does to a model</h1>"]
    ran = ", ".join(f"{name} ({stage['date']}, {stage['seconds']:.0f} s)"
                    for name, stage in stages.items())
    out.append(f"<p>Measured: {html.escape(ran)}.</p>")
    for name, title in TITLES.items():
        if name not in made:
            continue
        out.append(f"<h2>{html.escape(title)}</h2><table>")
        for i, row in enumerate(made[name]):
            tag = "th" if i == 0 else "td"
            out.append("<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in row) +
                       "</tr>")
        out.append("</table>")
        if name in charts:
            out.append(charts[name])
    return "\n".join(out)


def measured(folder, prefix=""):
    found = {}
    for path in sorted((folder / "parts").glob("*.json")):
        stage = json.loads(path.read_text())
        found[prefix + stage["stage"]] = stage
    return found


def write(out, root):
    """results.json is kept; parts are what this folder's runs have left, and those of the folders
    in it: another model's, or another machine's."""
    results = out / "results.json"
    stages = json.loads(results.read_text()) if results.exists() else {}
    stages |= measured(out)
    for folder in sorted(path.parent for path in out.glob("*/parts")):
        stages |= measured(folder, f"{folder.name}/")
    results.write_text(json.dumps(stages) + "\n")
    made = tables(stages)
    million = million_runs({name: stage["result"] for name, stage in stages.items()})
    charts = {"million": million_chart(million)} if million else {}
    for name, drawing in charts.items():
        (out / f"{name}.svg").write_text(drawing)
    (out / "report.html").write_text(page(made, charts, stages))
    shown = {name: documents.table(rows) for name, rows in made.items()}
    for document in ("README.md", "docs/evidence.md") if root is not None else ():
        documents.fill(root / document, "evidence", shown)
