"""The kernel's source -> the same kernel as machine code (numba, extra `fast`).

The sources are put together in one file under the user's cache, in a folder named by their hash and
by what compiles them: numba notices when a file changes, but not when a function in another file
does. The machine code lies beside it, so that only the first run ever pays for compiling (seconds).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import tempfile
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

from tonnage.errors import MissingExtraError
from tonnage.files import write_atomically
from tonnage.queueing.simulation.collector import without_collector

_PACKAGE = "tonnage.queueing.simulation"
_HEAD = '''"""Written by tonnage: the simulator's kernel, its heaps in arrays, to be compiled."""
from __future__ import annotations
import math
from numba import njit

FUNCTIONS = []
PREPARED = False
__file__ = globals().get("__file__")

LEAN = {"nogil": True, "error_model": "numpy", "no_rewrites": True, "_nrt": False}

def compilable(function):
    inner = function.__name__ != "run"  # which alone is called from Python
    compiled = njit(
        cache=not inner, no_cpython_wrapper=inner, no_cfunc_wrapper=True, **LEAN
    )(function)
    FUNCTIONS.append(compiled)
    return compiled

def called_once(function):
    return njit(inline="always", **LEAN)(function)

'''


def can_compile() -> bool:
    """Whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


def source() -> str:
    """The one file that is compiled."""
    package = files(_PACKAGE)
    kernel = package.joinpath("kernel.py").read_text(encoding="utf-8")
    _, _, body = kernel.partition("\nTIE_S = ")
    heaps = package.joinpath("array_heaps.txt").read_text(encoding="utf-8")
    return f"{_HEAD}{heaps}\n\nTIE_S = {body}"


@cache
def compiled_kernel() -> Any:  # noqa: ANN401 — a module made at run time
    """The module of functions to compile, or to load compiled from the cache.

    Raises MissingExtraError without numba.
    """
    if not can_compile():
        raise MissingExtraError(
            "compiling the simulator needs numba:", hint='pip install "tonnage[fast]".'
        )
    numba: Any = importlib.import_module("numba")  # optional, 0.3 s, and without types
    llvm: Any = importlib.import_module("llvmlite.binding")
    text = source()
    fields = files(_PACKAGE).joinpath("world.py").read_text(encoding="utf-8")
    made_by = (
        text,
        fields,
        numba.__version__,
        llvm.get_host_cpu_name(),
        *map(str, sys.version_info[:3]),
    )
    key = hashlib.sha256("\0".join(made_by).encode()).hexdigest()[:16]
    for folder in (_cache_folder(), Path(tempfile.gettempdir()) / f"tonnage-{os.getuid()}"):
        path = folder / f"kernel-{key}" / "kernel.py"
        try:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, text)
        except OSError:
            continue
        return _load(path)
    module = ModuleType("tonnage_kernel")
    exec(compile(text.replace("cache=not inner", "cache=False"), "<kernel>", "exec"), vars(module))  # noqa: S102 — our own source
    return module


def prepare(kernel: Any, world: Any) -> None:  # noqa: ANN401 — as above, and the compiled make
    """Compile what is not in the cache, callees before callers and each for one set of types.

    Only the code of `run` is ever executed, with all it calls linked in: it is optimised at level 2
    of LLVM, which makes faster code than level 3 here; the others at level 1, to be small.
    """
    if is_prepared(kernel):
        return
    numba: Any = importlib.import_module("numba")  # optional, and without types
    config: Any = importlib.import_module("numba.core.config")
    types = {
        "World": numba.typeof(world),
        "Replica": numba.typeof(world.replica).dtype,
        "Engine": numba.typeof(world.engine).dtype,
        "Request": numba.typeof(world.request).dtype,
        "int": numba.int64,
        "float": numba.float64,
    }
    # every symbol bears the names of its types, and this one would list all fields of all records
    types["World"].name = "World"
    usual = config.OPT
    try:
        with without_collector():  # a seventh of the time
            for function in kernel.FUNCTIONS:
                config.OPT = type(usual)(2 if function.py_func.__name__ == "run" else 1)
                taken = function.py_func.__annotations__.items()
                takes = [types[kind] for name, kind in taken if name != "return"]
                function.compile(tuple(takes))
                function.disable_compile()
    finally:
        config.OPT = usual
    kernel.PREPARED = True
    if kernel.__file__ is not None:
        with suppress(OSError):
            Path(kernel.__file__).with_name("prepared").touch()


def is_prepared(kernel: Any) -> bool:  # noqa: ANN401 — as above
    """Whether nothing is left to compile, in this process or on disk."""
    on_disk = kernel.__file__ is not None and Path(kernel.__file__).with_name("prepared").exists()
    return bool(kernel.PREPARED or on_disk)


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tonnage"


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("tonnage_kernel", path)
    assert spec is not None  # noqa: S101 — a path that ends in .py always has one
    assert spec.loader is not None  # noqa: S101 — as above
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # numba looks it up by name when it loads machine code
    spec.loader.exec_module(module)
    return module
