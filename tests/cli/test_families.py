"""`mmdatasets families`: its data are the registry's and what the conformance suite found."""

from __future__ import annotations

import json
import re

import pytest

from mmdatasets.plugins import registry
from mmdatasets.plugins.families import FAMILIES
from tests.cli.installed import REPOSITORY, run_installed

README, PAGE = REPOSITORY / "README.md", REPOSITORY / "docs" / "families.md"
OWN = [family for family in FAMILIES if family.name != "generic"]


def test_the_installed_command(tmp_path):
    done = run_installed("families", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    listed = done.stdout.splitlines()
    assert {line.split()[0] for line in listed if line[:1] == " " and line[1:2].strip()} >= {
        family.name for family in FAMILIES
    }
    assert max(map(len, listed)) <= 100
    as_json = json.loads(run_installed("families", "--json", cwd=tmp_path).stdout)
    assert [family["name"] for family in as_json] == [family.name for family in FAMILIES]
    assert as_json[-3]["processors"] == list(FAMILIES[-3].processors)


def test_the_registry_is_made_of_it():
    assert list(registry._FAMILIES) == [family.name for family in FAMILIES]
    assert set(registry._PLUGINS) <= set(registry._FAMILIES)
    names = [name for family in FAMILIES for name in (family.name, *family.aliases)]
    assert sorted(names) == registry.list_mm_plugins()
    for family in FAMILIES:
        found = registry._FAMILIES[family.name]
        assert (found.processors, found.aliases) == (family.processors, family.aliases)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, list[tuple[set[str], set[str]]]]:
    """Plugin -> modalities and attention of each of its processors, by the page that the conformance suite wrote."""
    text = PAGE.read_text("utf-8").partition("## Through the generic plugin")[0]
    found: dict[str, list[tuple[set[str], set[str]]]] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)]
        if len(cells) < 9 or not re.fullmatch(r"`\w+`", cells[2]):
            continue
        modalities, packs = (set(cells[place].split(", ")) - {"none", "no"} for place in (4, 6))
        found.setdefault(cells[2].strip("`"), []).append((modalities, packs))
    return found


@pytest.mark.parametrize("family", OWN, ids=lambda family: family.name)
def test_what_is_said_of_a_family_is_what_the_conformance_suite_found(family, outcomes):
    modalities, packs = (set().union(*parts) for parts in zip(*outcomes[family.name], strict=True))
    assert set(family.modalities) == modalities
    assert set(family.packs) == packs


def test_the_readme_names_each():
    table = README.read_text("utf-8").partition("## Supported models")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", table.partition("\n\n`auto_plugin")[0]))
    assert named == {name for family in FAMILIES for name in (family.name, *family.aliases)}
