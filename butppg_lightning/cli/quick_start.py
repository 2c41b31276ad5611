"""Imports Lightning without what training never calls, which would take half of the time to the first step.

That is torch's compiler (Lightning asks whether a module was compiled, torch.optim says where its methods must not be),
and scipy and matplotlib (torchmetrics' plots). Whoever does call them finds them: they are imported then.
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"
_UNUSED = ("scipy", "matplotlib")


def import_lightning() -> None:
    """Import torch, torchmetrics and Lightning; what is imported already stays as it is."""
    import torch

    if _COMPILER not in sys.modules:
        torch._dynamo = sys.modules[_COMPILER] = _Compiler()
        sys.meta_path.insert(0, _Submodules())
    if "torchmetrics" not in sys.modules:
        _import_metrics()
    importlib.import_module("lightning.pytorch")


class _OnDemand(ModuleType):
    """A module that is imported when something is looked up in it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # inspect looks at all modules
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


class _CompiledType(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        compiler = sys.modules[_COMPILER]
        return not isinstance(compiler, _Compiler) and isinstance(instance, compiler.OptimizedModule)


class _Compiled(metaclass=_CompiledType):
    """Stands for the class of compiled modules: as long as the compiler is not there, nothing is one."""


class _Compiler(_OnDemand):
    """Stands for torch's compiler until it is asked for anything else than what means nothing where none is."""

    OptimizedModule = _Compiled

    def __init__(self) -> None:
        super().__init__(_COMPILER)
        spec = self.__spec__ = find_spec(_COMPILER)
        self.__path__ = list((spec and spec.submodule_search_locations) or ())

    @staticmethod
    def disable(function: Any, *_: Any, **__: Any) -> Any:
        return function

    @staticmethod
    def graph_break() -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__") and sys.modules[_COMPILER] is self:
            del sys.modules[_COMPILER]
        return super().__getattr__(name)


class _Submodules(MetaPathFinder, Loader):
    """Imports the compiler before a submodule of it, and that not again where the compiler has imported it."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if not fullname.startswith(f"{_COMPILER}."):
            return None
        sys.meta_path.remove(self)
        if isinstance(sys.modules.get(_COMPILER), _Compiler):
            del sys.modules[_COMPILER]
            importlib.import_module(_COMPILER)
        if fullname not in sys.modules:
            return None
        module = sys.modules[fullname]
        self._spec, module.__spec__ = module.__spec__, ModuleSpec(fullname, self)
        return module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


def _import_metrics() -> None:
    imports: Any = importlib.import_module("lightning_utilities.core.imports")
    if not hasattr(imports, "package_available") or not hasattr(imports, "RequirementCache"):
        return  # a version that asks otherwise: Lightning imports all of it
    available, met = imports.package_available, imports.RequirementCache.__bool__
    # imported there for the sake of another package (scipy), and for types of annotations
    imports.package_available = lambda name: name not in _UNUSED and available(name)
    imports.RequirementCache.__bool__ = lambda self: not str(self.requirement).startswith(_UNUSED) and met(self)
    try:
        plot = importlib.import_module("torchmetrics.utilities.plot")
    finally:
        imports.package_available, imports.RequirementCache.__bool__ = available, met
    for name, module in (("plt", "matplotlib.pyplot"), ("matplotlib", "matplotlib")):
        setattr(plot, name, _OnDemand(module))
