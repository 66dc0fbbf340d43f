"""Measure the code base: ``python scripts/measure_code.py [REV ...]`` prints a Markdown table.

A column for each git revision, or one for the working tree; tracked Python files are counted.

"Files crossed" is static: the files with a definition that can be reached by name from the entries
in `PATHS`. A definition reaches those of our packages that its body names, annotations included; a
class reaches what its methods name. Branches that a run does not take are followed, implementations
chosen at run time behind a Protocol are not: compare revisions with it, not with one run.
"""

import ast
import io
import re
import subprocess
import sys
import tarfile
import tokenize
from collections import Counter
from itertools import pairwise
from pathlib import Path
from statistics import median

SHIPPED = "contracts stream_sources daemon subscribers encoder_training encoder_export".split()
SHIPPED += ["evaluation", "simulation", "neurrate"]
PROTOCOL_FILES = r"daemon/(bin_ring|window_cutter|handover|stream_registry|triggers/.*"
PROTOCOL_FILES += r"|worker[/_](port|desk|client|loop))\.py"
PATHS = {  # entries that a revision does not have are passed over
    "a spike, from file to narration": """stream_sources.recording:RecordingSource
        stream_sources.recordings.recording:RecordingSource stream_sources.publisher:SpikePublisher
        daemon.pipeline:FastLoop daemon.worker_desk:WorkerDesk daemon.worker.loop:WorkerLoop""",
    "`prepare`": "neurrate.prepare_command:prepare",
    "`export`": "neurrate.export_command:export",
}
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
SECTION = re.compile(r"(?:Parameters|Attributes|Returns|Yields)\n-+\n((?:.+\n?)+)")


def sources(revision: str) -> dict[str, str]:
    """Return the text of every tracked Python file, by path."""
    if revision == "working tree":
        listed = subprocess.run(["git", "ls-files", "*.py"], capture_output=True, check=True).stdout
        return {path: Path(path).read_text(encoding="utf-8") for path in listed.decode().split()}
    archive = subprocess.run(["git", "archive", revision], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        members = [member for member in tar.getmembers() if member.name.endswith(".py")]
        return {member.name: tar.extractfile(member).read().decode() for member in members}


def bare_entries(docstring: str) -> int:
    """Count the entries of a docstring without a line that says more than name and type."""
    sections = [[*section.splitlines(), ""] for section in SECTION.findall(docstring)]
    pairs = [pair for lines in sections for pair in pairwise(lines)]
    return sum(not any(line.startswith(" ") for line in pair) for pair in pairs)


def crossed(trees: dict[str, ast.Module], entries: str) -> int:
    """Count the files that can be reached by name from the entries."""
    modules = {path[:-3].removesuffix("/__init__").replace("/", "."): trees[path] for path in trees}
    tables = {name: {} for name in modules}  # what each name is: imported from, or defined as
    for table, tree in zip(tables.values(), modules.values(), strict=True):
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in modules:
                table |= {a.asname or a.name: (node.module, a.name) for a in node.names}
        for node in tree.body:
            if isinstance(node, DEFINITIONS):
                table[node.name] = node
            assigned = [*getattr(node, "targets", ()), getattr(node, "target", None)]
            table |= {target.id: node for target in assigned if isinstance(target, ast.Name)}
    pending, visited = [tuple(entry.split(":")) for entry in entries.split()], set()
    while pending:
        module, name = pending.pop()
        target = tables.get(module, {}).get(name)
        if isinstance(target, tuple):
            pending.append(target)
        elif target is not None and (module, name) not in visited:
            visited.add((module, name))
            for node in ast.walk(target):
                if isinstance(node, ast.Name):
                    pending.append((module, node.id))
                elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    imported = tables[module].get(node.value.id)  # as in "from package import file"
                    if isinstance(imported, tuple):
                        pending.append((".".join(imported), node.attr))
    return len({module for module, _ in visited})


def measure(revision: str) -> dict[str, str]:
    """Return every figure of one revision, by its row of the table."""
    files = sources(revision)
    trees = {path: ast.parse(text) for path, text in files.items()}
    every = [node for tree in trees.values() for node in ast.walk(tree)]
    classes = Counter(node.name for node in every if isinstance(node, ast.ClassDef))
    lines, figures = {path: len(text.splitlines()) for path, text in files.items()}, {}
    for package in (*SHIPPED, "tests", "benchmarks"):
        counts = [n for path, n in lines.items() if path.startswith(f"{package}/")]
        figures[package] = f"{sum(counts):,} in {len(counts)}"
    trees = {path: tree for path, tree in trees.items() if path.split("/")[0] in SHIPPED}
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    lengths = [n.end_lineno - n.lineno + 1 for n in nodes if isinstance(n, DEFINITIONS[:2])]
    protocol = "".join(text for path, text in files.items() if re.fullmatch(PROTOCOL_FILES, path))
    tokens = tokenize.generate_tokens(io.StringIO(protocol).readline)
    comment_share = sum(t.type == tokenize.COMMENT for t in tokens) / len(protocol.splitlines())
    documented = (node for node in nodes if isinstance(node, (*DEFINITIONS, ast.Module)))
    n_bare = sum(bare_entries(ast.get_docstring(node) or "") for node in documented)
    figures["**shipped**"] = f"{sum(lines[path] for path in trees):,} in {len(trees)}"
    figures["median file, lines"] = f"{median(lines[path] for path in trees if lines[path] > 1):g}"
    figures["median function, lines"] = f"{median(lengths):g}"
    figures["comments per 100 lines, protocol files"] = f"{100 * comment_share:.1f}"
    figures["class names used twice or more"] = f"{sum(n > 1 for n in classes.values())}"
    figures["docstring entries that only repeat the type"] = f"{n_bare}"
    return figures | {f"files crossed by {p}": f"{crossed(trees, e)}" for p, e in PATHS.items()}


revisions = sys.argv[1:] or ["working tree"]
columns = [measure(revision) for revision in revisions]
print("| lines in files |", " | ".join(revisions), "|\n|---|" + "---:|" * len(columns))
for row in columns[0]:
    print(f"| {row} |", " | ".join(figures[row] for figures in columns), "|")
