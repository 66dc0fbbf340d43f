"""``neurrate doctor``: what is here, what is missing, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from contracts.atomic_files import check_writable
from contracts.errors import DependencyError, UserError
from daemon.service import doctor as checks
from neurrate.arguments import JsonOption
from neurrate.tables import print_table, write_json


def doctor(*, bundle: Path | None = None, json: JsonOption = None) -> int:
    """Say what is installed, what is missing, and what to do about it.

    Each library is tried: imported and called once, in a process of its own. Exits with 0 if
    Neurrate can be used, 3 if something it needs is missing, 2 if the bundle is refused.

    Examples
    --------
        neurrate doctor
        neurrate doctor --bundle bundles/session --json doctor.json

    Parameters
    ----------
    bundle
        Also check this bundle's files against their sha256.
    json
        Write the same as JSON to this file.

    Returns
    -------
    code : int
        Exit code.
    """
    check_writable(json)
    findings = [
        *checks.packages(),
        *checks.onnx_runtime(),
        *checks.extras(),
        *checks.encoder_devices(),
        *checks.machine(),
        *checks.ports(),
        *(checks.bundle(bundle) if bundle else ()),
    ]
    print_table("Neurrate", [{"thing": one.name, "found": one.found} for one in findings])
    problems = [one.problem for one in findings if one.problem]
    for problem in problems:
        print(f"- {problem}")
    code = exit_code(findings)
    print("Neurrate can be used." if code == 0 else "Neurrate cannot be used like this.")
    write_json(
        json, {"usable": code == 0, "problems": problems, "found": [asdict(f) for f in findings]}
    )
    return code


def exit_code(findings: list[checks.Finding]) -> int:
    """Return 3 if a dependency is missing, else 2 if the input is refused, else 0."""
    kinds = {one.kind for one in findings}
    if "dependency" in kinds:
        return DependencyError.exit_code
    return UserError.exit_code if "input" in kinds else 0
