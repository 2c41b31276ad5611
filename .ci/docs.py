"""Build the API reference from the docstrings; a warning is an error. `make docs` and `make lint` call it."""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, get_type_hints

import pdoc
import pdoc.doc_types
import pdoc.render

import butppg_lightning

if TYPE_CHECKING:
    from types import ModuleType


def build(output: Path) -> list[str]:
    """Write one page per module, and a search.

    Args:
        output: Folder of the pages.

    Returns:
        What could not be resolved (modules, names, annotations), one line each.
    """
    # pdoc looks into the module's dictionary only, where names that are imported on first use do not stand yet
    vars(butppg_lightning).update({name: getattr(butppg_lightning, name) for name in butppg_lightning.__all__})
    footer = f"butppg_lightning {butppg_lightning.__version__}"
    templates = Path(__file__).parent / "pdoc"
    pdoc.render.configure(docformat="google", footer_text=footer, show_source=False, template_directory=templates)
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", module="pdoc")
        _prepare(butppg_lightning)
        pdoc.pdoc(butppg_lightning.__name__, output_directory=output)
    return sorted({str(item.message) for item in caught if Path(pdoc.__file__).parent in Path(item.filename).parents})


def _prepare(module: ModuleType) -> None:
    """Help pdoc with a module and all below it."""
    pdoc.doc_types._eval_type_checking_sections(module, set())
    for _, item in inspect.getmembers(module, inspect.isclass):
        # constructors are told of in the docstring of the class; without this, torch's and lightning's would show
        if item.__module__ == module.__name__ and "__init__" in vars(item) and item.__init__.__doc__ is None:
            item.__init__.__doc__ = ""
        if item.__module__ == module.__name__ and hasattr(item, "_fields"):
            item.__new__.__annotations__ = get_type_hints(item)  # a NamedTuple's constructor does not know its module
    for found in pkgutil.iter_modules(getattr(module, "__path__", [])):
        if found.name.startswith("_"):
            continue
        if hasattr(module, "__all__") and found.name not in module.__all__:
            module.__all__.append(found.name)  # it leaves out the modules that are not there
        _prepare(importlib.import_module(f"{module.__name__}.{found.name}"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("artifacts/docs"))
    folder = parser.parse_args().output
    if problems := build(folder):
        raise SystemExit("\n".join(problems))
    print(f"API reference: {folder / 'index.html'}")
