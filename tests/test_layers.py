"""What may import what, read from the syntax trees; and that nothing heavy loads at the start."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from charllm.data.config import ROOT

LAYERS = ("data", "core", "services", "ui")
"""From the lowest to the highest; a module imports its own layer or a lower one."""

ONLY_IN = {
    "gradio": ("charllm.ui",),
    "openai": ("charllm.core.endpoint",),
    "chromadb": ("charllm.core.retrieval", "charllm.core.fact_store"),
}
HEAVY = (
    *("torch", "transformers", "trl", "peft", "mergekit", "bitsandbytes", "datasets"),
    *("gradio", "chromadb", "openai", "sklearn", "scipy", "cma"),
)


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / "charllm").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(path: Path, module: str) -> Iterator[tuple[int, str]]:
    """``(line, module imported)``, wherever in the file it stands; relative ones in full."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module if path.name == "__init__.py" else module.rpartition(".")[0]
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            # ``from charllm.services import store``: each name may be a module of its own
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and (name := _imported_by_call(node)):
            yield node.lineno, name


def _imported_by_call(node: ast.Call) -> str:
    """The module in ``import_module("…")``, "" for any other call."""
    called = getattr(node.func, "id", "") or getattr(node.func, "attr", "")
    first = node.args[0] if node.args else None
    if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
        return str(first.value)
    return ""


def layer(module: str) -> int | None:
    """The layer's place; None for other packages, and for the package's own top files."""
    parts = module.split(".")
    is_ours = parts[0] == "charllm" and len(parts) > 1 and parts[1] in LAYERS
    return LAYERS.index(parts[1]) if is_ours else None


def test_imports_go_down() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {target}"
        for module, path in modules()
        for line, target in imports(path, module)
        if (mine := layer(module)) is not None
        and (theirs := layer(target)) is not None
        and theirs > mine
    ]
    assert wrong == []


def test_only_the_entry_lies_outside_the_layers() -> None:
    outside = {module for module, _ in modules() if layer(module) is None}
    assert outside == {"charllm", "charllm.__main__"}


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_package_is_imported_in_one_place(package: str) -> None:
    allowed = ONLY_IN[package]
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for module, path in modules()
        for line, target in imports(path, module)
        if target.split(".")[0] == package
        and not any(module == place or module.startswith(f"{place}.") for place in allowed)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "statement",
    [
        "import charllm",
        "import charllm.services.cli, charllm.services.jobs, charllm.services.store",
        "from charllm.services.cli import main; main(['profile', 'list'])",
    ],
)
def test_nothing_heavy_is_loaded_early(statement: str) -> None:
    code = f"{statement}\nimport sys\nprint('loaded:', *sorted({HEAVY!r} & sys.modules.keys()))"
    code = code.replace(repr(HEAVY), repr(set(HEAVY)))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_our_datasets_folder_is_no_package() -> None:
    """``datasets/`` would hide the library of that name, which trl imports."""
    assert not list((ROOT / "datasets").rglob("__init__.py"))


def test_the_reader_of_imports_sees_every_form(tmp_path: Path) -> None:
    """The rules above are worth what this reader sees."""
    file = tmp_path / "x.py"
    file.write_text(
        "import a.b\nfrom ..core import c\nfrom . import d\n"
        "def f():\n    from charllm import ui\n    importlib.import_module('gradio.x')\n"
    )
    found = {target for _, target in imports(file, "charllm.services.x")}
    expected = {"a.b", "charllm.core.c", "charllm.services.d", "charllm.ui", "gradio.x"}
    assert found == expected
    assert layer("charllm.ui") == 3 and layer("charllm.data.text") == 0 and layer("torch") is None
