"""The package as a whole: what importing it costs, what it exports, and which way its modules import one another."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import mmdatasets
import mmdatasets.testing

PACKAGE = Path(mmdatasets.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

MAX_LINES = 400
MAX_IMPORT_S = 0.1
HEAVY = ["torch", "transformers", "datasets", "torchvision", "tokenizers", "pyarrow", "PIL", "numpy"]

# First name below `mmdatasets` -> layer. A module may import its own package and what lies in lower layers.
LAYERS = {
    "_version": 0,
    "disk": 0,
    "errors": 0,
    "options": 0,
    "orphans": 0,
    "types": 0,
    "features": 1,
    "media": 1,
    "chat": 2,
    "planning": 2,
    "transforms": 3,
    "collate": 4,
    "preview": 5,
    "report": 5,
    "plugins": 6,
    "shards": 7,
    "integrations": 8,
    "__main__": 9,
    "cli": 9,
    "testing": 10,
}
# The command line's demonstration runs on the processors and models of the testing package.
ALLOWED = {("cli", "testing"), ("__main__", "cli")}


def run_python(code):
    """Runs code in a fresh interpreter and returns what it prints, as JSON."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    return json.loads(done.stdout)


def test_importing_the_package_loads_nothing_heavy():
    loaded = set(run_python("import json, sys, mmdatasets; print(json.dumps(list(sys.modules)))"))
    assert "mmdatasets" in loaded
    assert not loaded & set(HEAVY)


def test_importing_the_testing_package_loads_nothing_heavy():
    loaded = set(run_python("import json, sys, mmdatasets.testing; print(json.dumps(list(sys.modules)))"))
    assert not loaded & set(HEAVY)


def test_importing_the_package_is_quick():
    code = "from time import perf_counter as now; start = now(); import mmdatasets; print(now() - start)"
    assert min(run_python(code) for _ in range(3)) < MAX_IMPORT_S


@pytest.mark.parametrize("package", [mmdatasets, mmdatasets.testing], ids=lambda package: package.__name__)
def test_public_names_resolve(package):
    assert set(package._EXPORTS) <= set(package.__all__) == set(dir(package))
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        package.no_such_name  # noqa: B018


def is_type_checking(test):
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def runtime_imports(node):
    """Yields the import statements that run, those inside functions included, those for type checkers only not."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
    elif isinstance(node, ast.If) and is_type_checking(node.test):
        for statement in node.orelse:
            yield from runtime_imports(statement)
    else:
        for child in ast.iter_child_nodes(node):
            yield from runtime_imports(child)


def imported_modules(node, module, is_package):
    """Full names of what an import statement of `module` may load; of `from a import b` that is `a.b`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        parents = module.split(".")
        parents = parents[: len(parents) - node.level + is_package]
        base = ".".join([*parents, base]) if base else ".".join(parents)
    return [f"{base}.{alias.name}" for alias in node.names]


def owner(target):
    """First name below `mmdatasets` of the module that `target` lives in, `None` if it is not ours."""
    parts = target.split(".")
    if parts[0] != "mmdatasets":
        return None
    if len(parts) == 1 or parts[1] == "__version__":
        return "_version"
    exported = mmdatasets._EXPORTS.get(parts[1])  # `from mmdatasets import auto_plugin` loads where that is defined
    return exported.split(".")[1] if exported else parts[1]


def layer_violations(source, module, is_package=False):
    """Every runtime import in `source` that does not point downwards, as `importer -> imported (line)`."""
    own = module.split(".")[1]
    found = []
    for node in runtime_imports(ast.parse(source)):
        for target in imported_modules(node, module, is_package):
            other = owner(target)
            if other is None or other == own or (own, other) in ALLOWED:
                continue
            foundation = LAYERS[own] == LAYERS[other] == 0
            if not foundation and LAYERS[other] >= LAYERS[own]:
                found.append(f"{module} -> {target} (line {node.lineno})")
    return found


@pytest.mark.parametrize(
    ("module", "source", "violations"),
    [
        ("mmdatasets.media.image", "from mmdatasets.errors import MediaError", 0),
        ("mmdatasets.media.image", "from mmdatasets.media.source import open_source", 0),
        ("mmdatasets.media.image", "from .source import open_source", 0),
        ("mmdatasets.media.image", "from ..plugins import base", 1),
        ("mmdatasets.media.image", "import mmdatasets.chat.formats, os", 1),
        ("mmdatasets.media.image", "from mmdatasets.features import X", 1),
        ("mmdatasets.media.image", "from mmdatasets import features, auto_plugin, __version__", 2),
        ("mmdatasets.media.image", "def f():\n    if True:\n        import mmdatasets.cli.main", 1),
        (
            "mmdatasets.media.image",
            "if TYPE_CHECKING:\n    import mmdatasets.cli\nelse:\n    import mmdatasets.chat",
            1,
        ),
        ("mmdatasets.media.image", "if typing.TYPE_CHECKING:\n    import mmdatasets.cli", 0),
        ("mmdatasets.types", "import mmdatasets.errors", 0),
        ("mmdatasets.types", "import mmdatasets.media", 1),
        ("mmdatasets.transforms.fit", "import mmdatasets.collate.collator", 1),
        ("mmdatasets.cli.demo", "from mmdatasets.testing import make_image", 0),
        ("mmdatasets.integrations.hub", "from mmdatasets.testing import make_image", 1),
        ("mmdatasets.testing.models", "from mmdatasets.cli import main", 0),
    ],
)
def test_the_layer_check_finds_what_it_should(module, source, violations):
    assert len(layer_violations(source, module)) == violations


def test_every_top_level_name_has_a_layer():
    names = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES} - {"__init__"}
    assert names <= set(LAYERS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    if parts == ("mmdatasets", "__init__"):
        return  # resolves the public names lazily, from any layer
    is_package = parts[-1] == "__init__"
    module = ".".join(parts[:-1] if is_package else parts)
    assert layer_violations(path.read_text(encoding="utf-8"), module, is_package) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_are_short_and_do_not_print(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MAX_LINES
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    assert [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"] == []
