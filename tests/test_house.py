"""The rules of the house: what is exported, who may import whom, and what shipped code never does."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import lambdaml

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"lambdaml": "lambdaml"} | {folder: f"lambdaml.{folder}" for folder in ("storage", "cost", "deploy", "cli")}
SCRIPTS = ROOT / "deploy" / "ray"  # they run on nodes of a cluster, and belong to no package
SHIPPED = sorted(path for name in FOLDERS for path in (ROOT / name).rglob("*.py") if path.parent != SCRIPTS)
TESTS = sorted((ROOT / "tests").rglob("*.py"))
FACE = ROOT / "lambdaml" / "__init__.py"

HEAVY = {"boto3", "jinja2", "moto", "obstore", "pandas", "psutil", "pyarrow", "ray", "sklearn", "tomlkit", "torch"}
HEAVY_FOR_THE_PACKAGE = HEAVY | {"numpy", "pydantic", "rich", "typer"}

# Code that the virtual world runs unchanged: it asks its world for time, randomness and waiting (design, section 3).
PROTOCOL = (
    *(f"lambdaml/log/{name}.py" for name in ("commits", "records", "state")),
    *(f"lambdaml/simulation/{name}.py" for name in ("channel", "platform", "stragglers")),
    *(f"lambdaml/simulation/{name}.py" for name in ("draws", "flow", "limit", "scenario")),
    *(f"lambdaml/simulation/{name}.py" for name in ("async_flow", "log_readers", "sync_flow")),
    *("lambdaml/codecs", "lambdaml/patterns", "lambdaml/schedules", "lambdaml/staleness", "lambdaml/worker"),
)
OF_THE_LIVE_WORLD = {"asyncio", "random", "socket", "threading", "time"}

# All locks of shipped code, and all that is called while one is held. None of it may wait for another lock, print, ask a
# store or call what a user wrote: that is how a run deadlocks. A client's own constructor calls nobody back.
CALLED_UNDER_A_LOCK = {
    "cli/_progress.py": {"self._picture.take", "self._picture.copy"},
    "deploy/local_lambda.py": {"self._idle.append", "self._idle.pop", "time.monotonic"},
    "lambdaml/engines/accounts.py": {
        "self._latest.values",
        "self._ended.add",
        "self._alive",
        "replace",
        "total",
    },
    "lambdaml/training/output.py": {
        *(
            "text.split",
            "self._add",
            "self._finish",
            "self._open.get",
            "line.row",
            "self._rows.add",
            "list",
            "max",
            "min",
            "_Rows",
        ),
        *("self._put_on", "self._take_off"),
    },
    "storage/boto.py": {"self._connect", "_plain_session", "_plain_session().client"},
    "storage/cloud.py": {"self._clients.get", "self._new_client", "self._clients.clear"},
    "storage/draws.py": set(),
    "storage/memory.py": {"_stores.setdefault", "self._objects.clear", "_stores.get"},
    "storage/meter.py": {
        *(
            "self._ledger.count",
            "self._ledger.read",
            "_reading",
            "self._latency.items",
            "dict",
        )
    },
    "storage/ray.py": {
        *("ray.is_initialized", "ray.init", "ray.get_runtime_context"),
        *("logging.getLogger", "logging.getLogger('ray').setLevel", "_show_token", "_knock", "_first_line", "_forked"),
        *("os.getpid", "StoreError", "_started.append", "masked"),
    },
}
LOCKS = {"Lock", "RLock", "Condition", "BoundedSemaphore"}

# Public names that may be defined more than once, and why.
VERB = "a verb of the command line is named as the library's verb that it calls"
DEFINED_TWICE = {
    "T": "any type, in functions and classes that are generic",
    "main": "where a program begins: the command line, and the process that forks functions",
    "open_backend": "what a module of a store offers to `open_store`",
    "variants": "what a module of a part offers to `Registry.variants`",
    "metrics": "the verb, and the key of the object that has what it shows",
    **dict.fromkeys(("copy", "gc", "replay", "rerun", "resume", "simulate", "status", "train", "verify"), VERB),
    **dict.fromkeys(("bill", "plan", "prices", "profile", "report", "why"), VERB),
}

MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 60
MAX_FUNCTION_CLASS_LINES = 250
MAX_REPEATED_LINES = 9


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    """The name that a file is imported under: `storage/memory.py` is `lambdaml.storage.memory`."""
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([FOLDERS[folder], *rest]).removesuffix(".__init__")


class AtRunTime(ast.NodeTransformer):
    """Leaves out what only type checkers see."""

    def visit_If(self, node: ast.If) -> ast.AST:
        return node if ast.unparse(node.test) != "TYPE_CHECKING" else ast.Pass()


def imports(path: Path, of_types: bool = True) -> Iterator[tuple[int, str]]:
    """Each (line, full module or name) that a file imports, at its top, in a function, or for type checkers alone."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree if of_types else AtRunTime().visit(tree)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def in_fresh_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(statement: str) -> set[str]:
    """The top-level modules in a fresh interpreter after a statement."""
    code = f"import json, sys; {statement}; print(json.dumps(sorted({{n.partition('.')[0] for n in sys.modules}})))"
    return set(json.loads(in_fresh_python(code)))


def test_the_public_names_are_these() -> None:
    assert sorted(lambdaml.__all__) == [
        "Caps",
        "Diagnosis",
        "Job",
        "LambdaMLError",
        "Lever",
        "Plan",
        "PriceBook",
        "Profile",
        "Quantities",
        "Run",
        "RunBill",
        "RunReport",
        "SearchSpace",
        "SimulationResult",
        "StatisticsJob",
        "Tariff",
        "Trace",
        "TrainResult",
        "UserError",
        "__version__",
        "bill",
        "plan",
        "prices",
        "profile",
        "replay_trace",
        "report",
        "rerun",
        "resume",
        "simulate",
        "train",
        "why",
    ]


@pytest.mark.parametrize("name", lambdaml.__all__)
def test_each_public_name_resolves_to_the_thing_and_not_to_a_module(name: str) -> None:
    code = f"import lambdaml, types; assert not isinstance(lambdaml.{name}, types.ModuleType); assert lambdaml.{name}"
    in_fresh_python(code)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = lambdaml.trian


def test_dir_lists_the_public_names() -> None:
    assert set(lambdaml.__all__) <= set(dir(lambdaml))


@pytest.mark.parametrize("statement", ["import lambdaml", "import lambdaml; lambdaml.UserError"])
def test_importing_the_package_loads_nothing_heavy(statement: str) -> None:
    assert not loaded_by(statement) & HEAVY_FOR_THE_PACKAGE


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    assert not loaded_by("import lambdaml.cli") & HEAVY


def test_help_loads_nothing_heavy() -> None:
    lines = [
        "import contextlib, io, json, sys",
        "import lambdaml.cli",
        "sys.argv = ['lambdaml', '--help']",
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):",
        "    lambdaml.cli.main()",
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))",
    ]
    assert not set(json.loads(in_fresh_python("\n".join(lines)))) & HEAVY


def test_a_checkout_as_working_folder_finds_the_whole_package() -> None:
    code = "import lambdaml.storage, lambdaml.cost, lambdaml.cli, lambdaml.errors; print('whole')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "whole\n", done.stderr


def called_under_locks(tree: ast.AST) -> set[str] | None:
    """What a file calls while it holds one of its locks; None if it makes none."""
    locks = {
        ast.unparse(node.targets[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        if ast.unparse(node.value.func).rpartition(".")[2] in LOCKS
    }
    if not locks:
        return None
    calls = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.With) and locks & {ast.unparse(item.context_expr) for item in node.items}:
            inside = (inner for statement in node.body for inner in ast.walk(statement))
            calls |= {ast.unparse(inner.func) for inner in inside if isinstance(inner, ast.Call)}
    return calls


def test_nothing_is_called_under_a_lock_but_what_was_thought_about() -> None:
    called = {label(path): called_under_locks(ast.parse(path.read_text())) for path in SHIPPED}
    assert {name: calls for name, calls in called.items() if calls is not None} == CALLED_UNDER_A_LOCK


@pytest.mark.parametrize("path", SHIPPED, ids=label)
def test_imports_go_one_way(path: Path) -> None:
    """cli -> deploy -> cost -> lambdaml -> storage, and never back; but the public face names what it shows to type checkers."""
    folder = path.relative_to(ROOT).parts[0]
    order = ["storage", "lambdaml", "cost", "deploy", "cli"]
    above = [FOLDERS[name] for name in order[order.index(folder) + 1 :]]
    wrong = [
        f"{label(path)}:{line} imports {name}"
        for line, name in imports(path, of_types=path != FACE)
        if (
            inside(name, "lambdaml") and not inside(name, "lambdaml.storage")
            if folder == "storage"
            else any(inside(name, package) for package in above)
        )
        or name.partition(".")[0] in {"storage", "cost", "deploy", "cli"}
    ]
    assert not wrong


def test_no_module_imports_itself_by_way_of_others_not_even_within_a_function() -> None:
    modules = {module_name(path): path for path in SHIPPED}
    graph = {
        module: {
            found
            for _, name in imports(path, of_types=False)
            if (found := name if name in modules else name.rpartition(".")[0]) in modules.keys() - {module, "lambdaml"}
        }
        for module, path in modules.items()
    }
    assert sum(map(len, graph.values())) > 500
    TopologicalSorter(graph).prepare()  # raises a CycleError that names the circle


def test_a_function_knows_its_parts_and_no_part_knows_it() -> None:
    """Nor does what stands in the bucket know any of them. What only type checkers see counts, too."""
    parts = [path for path in SHIPPED if label(path).startswith(("lambdaml/worker/", "lambdaml/patterns/"))]
    records = [path for path in SHIPPED if label(path).startswith("lambdaml/log/")]
    assert len(parts) > 15 and len(records) > 10
    wrong = [f"{label(path)}:{line}" for path in parts for line, name in imports(path) if name.endswith(".Function")]
    wrong += [f"{label(path)}:{line}" for path in records for line, name in imports(path) if "lambdaml.worker" in name]
    assert not wrong


def test_a_function_is_read_in_one_sitting() -> None:
    tree = ast.parse((ROOT / "lambdaml/worker/function.py").read_text())
    (found,) = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert found.name == "Function" and (found.end_lineno or 0) - found.lineno < MAX_FUNCTION_CLASS_LINES


@pytest.mark.parametrize("path", SHIPPED, ids=label)
def test_nothing_read_is_executed(path: Path) -> None:
    """No pickle in any dress, no eval or exec; torch.load only with weights_only=True."""
    pickles = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
    wrong = [
        f"{label(path)}:{line} imports {name}" for line, name in imports(path) if name.partition(".")[0] in pickles
    ]
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        call = ast.unparse(node.func)
        if (
            call in {"eval", "exec", "builtins.eval", "builtins.exec"}
            or (call == "torch.load" and keywords.get("weights_only") != "True")
            or keywords.get("allow_pickle", "False") != "False"
        ):
            wrong.append(f"{label(path)}:{node.lineno} calls {ast.unparse(node)}")
    assert not wrong


def public_names(path: Path) -> Iterator[str]:
    """What a module defines at its top, without a leading underscore: functions, classes, constants, aliases of types."""
    for node in ast.parse(path.read_text()).body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names = [name]
            case ast.Assign(targets=targets):
                names = [target.id for target in targets if isinstance(target, ast.Name)]
            case ast.AnnAssign(target=ast.Name(id=name)):
                names = [name]
            case _:
                names = []
        yield from (name for name in names if not name.startswith("_"))


def test_a_public_name_has_one_meaning() -> None:
    defined: dict[str, list[str]] = {}
    for path in SHIPPED:
        if not any(part.startswith("_") for part in module_name(path).split(".")):
            for name in public_names(path):
                defined.setdefault(name, []).append(label(path))
    assert len(defined) > 500
    several = {name: places for name, places in defined.items() if len(places) > 1}
    assert {name: places for name, places in several.items() if name not in DEFINED_TWICE} == {}


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """A public docstring says what a caller must know, which is no reason to split its function."""
    first = node.body[0]
    return (first.end_lineno or first.lineno) - first.lineno + 1 if ast.get_docstring(node) else 0


def test_files_are_short_those_of_tests_too() -> None:
    lines = {label(path): len(path.read_text().splitlines()) for path in SHIPPED + TESTS}
    assert {name: count for name, count in lines.items() if count > MAX_FILE_LINES} == {}


@pytest.mark.parametrize("path", SHIPPED, ids=label)
def test_functions_are_short(path: Path) -> None:
    long = [
        f"{label(path)}:{node.lineno} {node.name} has {lines} lines"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1 - docstring_lines(node)) > MAX_FUNCTION_LINES
    ]
    assert not long


def code_lines(path: Path) -> list[tuple[int, str]]:
    """Each line of code with its number, but for imports, docstrings and the heads of functions, which a caller reads."""
    text = path.read_text()
    left_out: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            left_out |= set(range(node.lineno, node.body[0].lineno))
        elif isinstance(node, ast.Import | ast.ImportFrom) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ):
            left_out |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if number not in left_out)
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def test_no_ten_lines_stand_twice() -> None:
    places: dict[tuple[str, ...], list[str]] = {}
    for path in SHIPPED:
        lines = code_lines(path)
        for start in range(len(lines) - MAX_REPEATED_LINES):
            piece = tuple(line for _, line in lines[start : start + MAX_REPEATED_LINES + 1])
            places.setdefault(piece, []).append(f"{label(path)}:{lines[start][0]}")
    assert len(places) > 10_000
    assert [found for found in places.values() if len(found) > 1] == []


@pytest.mark.parametrize("place", PROTOCOL)
def test_protocol_code_asks_its_world_for_time_and_chance(place: str) -> None:
    files = [ROOT / place] if place.endswith(".py") else sorted((ROOT / place).rglob("*.py"))
    assert files and all(path.is_file() for path in files), f"{place} is gone: name its successor in PROTOCOL"
    wrong = [
        f"{label(path)}:{line} imports {name}"
        for path in files
        for line, name in imports(path)
        if name.partition(".")[0] in OF_THE_LIVE_WORLD
    ]
    assert not wrong


def test_every_test_that_a_promise_names_is_there() -> None:
    named = re.findall(r"`([\w/]*test_\w+\.py)?(?:::(test_\w+))?`", (ROOT / "docs" / "promises.md").read_text())
    tests, path, missing = ROOT / "tests", ROOT, []
    assert len(named) > 50
    for file, test in named:
        if file:
            path = tests / file if (tests / file).is_file() else path.parent / file
        if not path.is_file() or (test and f"def {test}(" not in path.read_text()):
            missing.append(f"{file or path}::{test}")
    assert not missing


def test_every_folder_of_code_is_packaged_and_none_is_forgotten() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert set(setuptools["packages"]) == {module_name(path) for path in SHIPPED if path.name == "__init__.py"}
    assert {path.parent for path in SHIPPED} == {path.parent for path in SHIPPED if path.name == "__init__.py"}


def test_every_dependency_is_pinned_to_one_version_for_installation() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [need for needs in project["optional-dependencies"].values() for need in needs]
    wanted = {re.split(r"[\[<>=!~; ]", need)[0].lower() for need in project["dependencies"] + extras}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9A-Za-z.]*", line) for line in lines)
    assert wanted <= {line.partition("==")[0].lower() for line in lines}
    assert "torch==2.13.0" in lines
