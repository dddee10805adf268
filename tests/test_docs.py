"""The README tells the truth about the files there are."""

from __future__ import annotations

import re

from charllm.data.config import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tree_names_every_module_and_no_other() -> None:
    tree = README.split("## The tree")[1].split("## Models")[0]
    named = set(re.findall(r"^\s+([a-z_]+\.py)\s", tree, flags=re.MULTILINE))
    there = {path.name for path in (ROOT / "charllm").rglob("*.py") if path.name != "__init__.py"}
    assert named - {"app.py"} == there


def test_where_is_names_files_that_exist() -> None:
    table = README.split("## Where is …?")[1].split("## The tree")[0]
    for path in re.findall(r"`([a-z_]+/[\w/.]*)`", table):
        assert (ROOT / path).exists(), path


def test_documents_link_to_files_that_exist() -> None:
    for page in [ROOT / "README.md", ROOT / "README.ja.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
