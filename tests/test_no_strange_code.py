"""Nothing that comes with data is run: no `eval`, no unpickling of what others wrote, no code of a repository."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mmdatasets

PACKAGE = Path(mmdatasets.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# Module -> what it may call, all of it on what this program itself has just made, or is told to by its command line.
ALLOWED = {
    "cli/processors.py": {"trust_remote_code"},  # the flag of that name, off by default
    "integrations/ray.py": {"pickle.loads"},  # errors of its own tasks
    "media/decode_helper.py": {"pickle.loads"},  # requests of the process that started it; answers are JSON
    "planning/snapshot.py": {"pickle.loads"},  # a processor of this process, for its copies
    "shards/workers.py": {"pickle.loads"},  # the plugin that the parent process hands to its workers
    "testing/conformance.py": {"pickle.loads"},
}
RUNNING = {"eval", "exec", "compile", "__import__"}
UNPICKLING = {"load", "loads", "Unpickler", "read_pickle"}
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "pandas"}


def strange_calls(source: str) -> set[str]:
    """What a module calls that may run code out of data."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Name) and function.id in RUNNING:
            found.add(function.id)
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
            name = f"{function.value.id}.{function.attr}"
            if function.value.id in PICKLES and function.attr in UNPICKLING:
                found.add(name)
            if name in ("torch.load", "yaml.load", "np.load", "numpy.load") and not _is_safe(node):
                found.add(name)
            if name in ("os.system", "os.popen"):
                found.add(name)
        for keyword in node.keywords:
            if keyword.arg in ("trust_remote_code", "allow_pickle", "shell") and not _is_false(keyword.value):
                found.add(keyword.arg)
    return found


def imported_from(source: str) -> set[str]:
    """Names that would hide where they come from: `from pickle import loads`."""
    return {
        f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PICKLES
        for alias in node.names
    }


def _is_false(value: ast.expr) -> bool:
    """Whether a value is `False`, or the command line's flag, which is unless the user says otherwise."""
    is_flag = ast.unparse(value) == "args.trust_remote_code"
    return is_flag or (isinstance(value, ast.Constant) and value.value is False)


def _is_safe(call: ast.Call) -> bool:
    return any(
        keyword.arg == "weights_only" and isinstance(keyword.value, ast.Constant) and keyword.value.value is True
        for keyword in call.keywords
    )


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("eval('1')", {"eval"}),
        ("model.eval()", set()),
        ("re.compile('x')", set()),
        ("pickle.loads(data)", {"pickle.loads"}),
        ("pickle.dumps(data)", set()),
        ("json.loads(data)", set()),
        ("f(trust_remote_code=True)", {"trust_remote_code"}),
        ("f(trust_remote_code=False)", set()),
        ("f(trust_remote_code=args.trust_remote_code)", set()),
        ("f(trust_remote_code=given)", {"trust_remote_code"}),
        ("torch.load(path)", {"torch.load"}),
        ("torch.load(path, weights_only=True)", set()),
        ("np.load(path, allow_pickle=True)", {"np.load", "allow_pickle"}),
        ("subprocess.run(command, shell=True)", {"shell"}),
    ],
)
def test_the_check_finds_what_it_should(source, expected):
    assert strange_calls(source) == expected


def test_nothing_that_comes_with_data_is_run():
    found = {str(path.relative_to(PACKAGE)): strange_calls(path.read_text("utf-8")) for path in MODULES}
    assert {name: calls for name, calls in found.items() if calls} == ALLOWED
    assert not [path for path in MODULES if imported_from(path.read_text("utf-8"))]
