"""Measured tables in documents. A document names what it shows between two comments, and programs
rewrite what stands there:

    <!-- KIND:NAME -->
    <!-- /KIND -->
"""

import re


def table(rows):
    """Rows of strings, the first one the heading, as Markdown."""
    lines = ["| " + " | ".join(rows[0]) + " |", "| " + " | ".join(["---"] * len(rows[0])) + " |"]
    lines += ["| " + " | ".join(row) + " |" for row in rows[1:]]
    return "\n".join(lines)


def fill(path, kind, made):
    """made: Markdown by name. What else a document names stays as it is."""
    def shown(match):
        name = match.group(1)
        if name not in made:
            return match.group(0)
        return f"<!-- {kind}:{name} -->\n{made[name]}\n<!-- /{kind} -->"

    path.write_text(re.sub(rf"<!-- {kind}:([\w-]+) -->\n.*?<!-- /{kind} -->", shown,
                           path.read_text(), flags=re.S))
