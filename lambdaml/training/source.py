"""A job's source is the file that its spec names and the modules beside it that it imports, however deep.

The sources that are loaded are the ones that are hashed. Imports are read from the source (nested ones in functions,
too), so that the hash is the same in every process and nothing is executed for it. A module is loaded again when any of
its sources has changed; its imports from beside it are then loaded from its own folder, even if another project's
folder has left modules of those names in `sys.modules`.

A job's imports are looked up in its own folder, then where Python looks, and last in the working folder: a file in the
working folder that is named like a module of the standard library does not affect the job, unless the job is in that
folder, too. For `package.module:Name` the job's own folder is the working folder, as with `python -m`.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

from lambdaml.errors import JobError

_OWN = Path(__file__).resolve().parents[1]
"""This package counts as installed, even where it is used from a checkout."""

_BEGAN = time.time()
"""A source that was edited after this time may have been imported before the edit."""

_loaded: dict[str, str] = {}
"""This maps modules that were loaded here, by their names in `sys.modules`, to their fingerprints."""

_loading: list[str] = []


def loading() -> bool:
    """Return whether a job's source is being executed; a script that is such a source must not train meanwhile."""
    return bool(_loading)


def split_spec(spec: str) -> tuple[str, str]:
    """Split `path/file.py:Name` or `package.module:Name` into the module and the name, "" without one. Paths may hold
    colons."""
    if spec.endswith(".py"):
        return spec, ""
    path, mark, name = spec.rpartition(".py:")
    if mark:
        return f"{path}.py", name
    module, _, name = spec.partition(":")
    return module, name


def fingerprint(spec: str) -> str:
    """Return the SHA-256 of the job's sources; a function refuses to work on a run with other code.

    For a file that imports nothing from beside it, this is the file's own SHA-256; otherwise it is the SHA-256 of the
    list of all sources with theirs.

    Raises:
        JobError: If there is no such file or module.
    """
    found = sources(spec)
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()}
    if len(digests) == 1:
        return next(iter(digests.values()))
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def sources(spec: str) -> dict[str, Path]:
    """Return the job's file and the modules below its folder that it imports, by their paths relative to that folder.

    Raises:
        JobError: If there is no such file or module.
    """
    path, root = _place(spec)
    found: dict[str, Path] = {}
    waiting = [path]
    while waiting:
        path = waiting.pop()
        name = path.relative_to(root).as_posix() if root in path.parents else path.name
        if name not in found:
            found[name] = path
            waiting += _imported(path, root) if root in path.parents else []
    return found


def load_module(spec: str) -> Any:
    """Load the module that the spec names from its sources as they are now.

    Raises:
        JobError: If there is no such file or module, or importing it fails.
    """
    module_spec, _ = split_spec(spec)
    is_file = module_spec.endswith(".py")
    if not is_file:
        _put_first(Path.cwd())
    path, root = _place(spec)
    name = f"lambdaml_job_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}" if is_file else module_spec
    now = fingerprint(spec)
    if name in sys.modules and _loaded.get(name) == now:
        return sys.modules[name]
    if is_file:
        _put_first(root)
        if "" not in sys.path:
            sys.path.append("")
    found = sources(spec)
    if is_file or name in _loaded or any(path.stat().st_mtime > _BEGAN for path in found.values()):
        _forget(found, name)
    _loading.append(spec)
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # a cache sees edits in whole seconds only
    try:
        importlib.invalidate_caches()
        if is_file:
            _guarded(lambda: _execute(name, path), spec)
        else:
            _guarded(lambda: importlib.import_module(name), spec)
    except JobError:
        sys.modules.pop(name, None)
        raise
    finally:
        _loading.pop()
        sys.dont_write_bytecode = written
    _loaded[name] = now
    return sys.modules[name]


class _Fresh(SourceFileLoader):
    """Reads the source, and ignores any cache."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def _execute(name: str, path: Path) -> None:
    info = importlib.util.spec_from_file_location(name, path, loader=_Fresh(name, str(path)))
    assert info is not None and info.loader is not None
    module = importlib.util.module_from_spec(info)
    sys.modules[name] = module
    info.loader.exec_module(module)


def _forget(found: dict[str, Path], name: str) -> None:
    """Forget the modules with these names, whoever imported them, so that the sources are imported again."""
    for relative in found:
        module = relative.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        sys.modules.pop(module, None)
    sys.modules.pop(name, None)


def _put_first(folder: Path) -> None:
    text = str(folder)
    if sys.path[:1] != [text]:
        sys.path[:] = [text, *(entry for entry in sys.path if entry != text)]


def _place(spec: str) -> tuple[Path, Path]:
    """Return the file that the spec names, and the folder that holds its own modules."""
    module_spec, _ = split_spec(spec)
    if module_spec.endswith(".py"):
        path = Path(module_spec).resolve()
        if not path.is_file():
            raise JobError(f"there is no file {module_spec}")
        return path, path.parent
    found = _guarded(lambda: importlib.util.find_spec(module_spec), spec)
    if found is None or found.origin is None:
        raise JobError(f"cannot find module {module_spec!r}")
    path = Path(found.origin)
    if not path.is_file():
        raise JobError(f"there is no file {path}")
    path = path.resolve()
    depth = module_spec.count(".") + (path.name == "__init__.py")
    root = path.parents[depth]
    installed = {"site-packages", "dist-packages"} & {*path.parts} or _OWN in path.parents
    return path, path.parent / "installed" if installed else root


def _imported(path: Path, root: Path) -> Iterator[Path]:
    """Yield the files below `root` that this file imports."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return  # importing it will say so
    package = path.relative_to(root).parts[:-1]
    for node in ast.walk(tree):
        names: list[tuple[str, ...]] = []
        if isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            whole = (*base, *(node.module.split(".") if node.module else ()))
            names = [whole, *[(*whole, alias.name) for alias in node.names]]
        for parts in names:
            for depth in range(1, len(parts) + 1):
                place = root.joinpath(*parts[:depth])
                yield from (file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file())


def _guarded(load: Callable[[], Any], spec: str) -> Any:
    try:
        return load()
    except JobError:
        raise
    except (Exception, SystemExit) as error:
        why = f"{type(error).__name__}: {error}"
        if _is_script(spec):  # a call that it makes for the second time, such as ray.init(), may have failed
            why = f"it is the script that runs, so put what it does under if __name__ == '__main__': ({why})"
        raise JobError(f"cannot import {spec}: {why}") from error


def _is_script(spec: str) -> bool:
    """Return whether the spec names the file that Python was started with."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    return script is not None and Path(script).resolve() == Path(split_spec(spec)[0]).resolve()
