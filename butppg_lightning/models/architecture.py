"""An encoder's architecture as plain data: {class_path, init_args}. Built, compared, read off bare weights."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from butppg_lightning.errors import UserError
from butppg_lightning.models.encoder import PatchTransformer, init_args_of
from butppg_lightning.models.tiny_time_mixer import mixer_sizes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

Spec = dict[str, Any]
"""``{"class_path": str, "init_args": dict}`` of plain types."""

PATCH_TRANSFORMER = "butppg_lightning.PatchTransformer"
TINY_TIME_MIXER = "butppg_lightning.TinyTimeMixer"
_OWN = {
    "PatchTransformer": "models.encoder",
    "SpectralEncoder": "models.spectral",
    "TinyTimeMixer": "models.tiny_time_mixer",
}
_ALIASES = {
    alias: f"butppg_lightning.{name}"
    for name, module in _OWN.items()
    for alias in (name, f"butppg_lightning.{name}", f"butppg_lightning.{module}.{name}")
}
"""Every spelling of our own encoders' class paths, and the one that is kept."""
_trusted: set[str] = set()
_FREE = {"channels", "dropout"}  # inflation changes the first; the second is a training option, not an architecture
_PARTS = ("channels", "embed", "blocks", "norm", "embedding", "width")


def normal_spec(spec: Mapping[str, Any] | None) -> Spec:
    """Return ``spec`` with its class path spelt in one way and both keys there; refuse any other key."""
    spec = dict(spec or {})
    unknown = set(spec) - {"class_path", "init_args"}
    if unknown:
        raise UserError(
            f"encoder has the unknown key '{sorted(unknown)[0]}'; expected class_path and init_args "
            "(for example encoder: {init_args: {width: 64}})"
        )
    path = spec.get("class_path") or PATCH_TRANSFORMER
    arguments = spec.get("init_args") or {}
    if not isinstance(path, str) or not isinstance(arguments, Mapping):
        raise UserError(
            f"encoder has class_path {path!r} and init_args {arguments!r}; expected a class's name and its arguments"
        )
    return {"class_path": _ALIASES.get(path, path), "init_args": dict(arguments)}


def resolve_spec(asked: Mapping[str, Any] | None, stored: Spec, origin: str, config: str | None = None) -> Spec:
    """Merge what the user asked for, possibly partial, with the spec in the checkpoint ``origin``.

    That is the checkpoint's architecture with the user's free options (dropout); a contradiction is a UserError, which
    names the ``config`` that fits the checkpoint, if one does.
    """
    mend = "drop the flag" + (f", or take --config {config}, which fits it" if config else "")
    wanted = normal_spec(asked)
    if asked and asked.get("class_path") and wanted["class_path"] != stored["class_path"]:
        raise UserError(
            f"the flags ask for encoder {wanted['class_path']}, but {origin} holds {stored['class_path']}; {mend}"
        )
    for key, value in wanted["init_args"].items():
        if key not in _FREE and key in stored["init_args"] and stored["init_args"][key] != value:
            raise UserError(
                f"the flags ask for encoder {key} {value}, but {origin} has {key} {stored['init_args'][key]}; "
                f"{mend}, or choose another checkpoint"
            )
    return {"class_path": stored["class_path"], "init_args": {**stored["init_args"], **wanted["init_args"]}}


def build_encoder(spec: Mapping[str, Any], channels: Sequence[str], *, named_by_user: bool) -> tuple[nn.Module, Spec]:
    """Build an encoder for ``channels``, which replace ``init_args.channels``.

    Args:
        spec: The architecture.
        channels: The channel names wanted.
        named_by_user: Whether the class path comes from the user. One that comes from a file is imported only if
            it is our own: importing runs code.

    Returns:
        The encoder and its complete spec in plain types.

    Raises:
        UserError: If the class cannot be used or an argument does not fit.
    """
    spec = normal_spec(spec)
    arguments = {**spec["init_args"], "channels": list(channels)}
    path = spec["class_path"]
    if path not in _ALIASES and not named_by_user:
        refuse_unnamed(spec, None)
    module, _, name = path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"encoder class {path} cannot be imported: {error}") from error
    known = inspect.signature(cls).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    for key in arguments:
        if key not in known and not takes_any:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; the nearest is {near[0]}" if near else f"; it takes {', '.join(known)}"
            raise UserError(f"encoder {spec['class_path']} has no argument '{key}'{hint}")
    try:
        encoder = cls(**arguments)
    except (TypeError, ValueError, RuntimeError) as error:  # torch says RuntimeError of a negative size
        raise UserError(f"encoder {spec['class_path']} cannot be built from {arguments}: {error}") from error
    lacking = [part for part in _PARTS if not hasattr(encoder, part)]
    if lacking:
        raise UserError(f"{spec['class_path']} cannot serve as encoder: it has no attribute {', '.join(lacking)}")
    if isinstance(encoder, PatchTransformer):
        arguments = init_args_of(encoder)
    elif path in _ALIASES:  # defaults too: a checkpoint says what it is, whatever they come to be
        arguments = {name: item.default for name, item in known.items() if name not in arguments} | arguments
    return encoder, {"class_path": spec["class_path"], "init_args": arguments}


def refuse_unnamed(stored: Mapping[str, Any] | None, asked: Mapping[str, Any] | None) -> None:
    """Refuse a foreign encoder class that only a file names and not the user too: importing it runs code."""
    path = normal_spec(stored)["class_path"]
    if path not in (*_ALIASES, (asked or {}).get("class_path"), *_trusted):
        raise UserError(
            f"the checkpoint names the encoder class {path}, which is not ours: importing it could run a stranger's "
            f"code; if you trust it, name it yourself (--model.encoder.class_path {path})"
        )


def trust_encoder(class_path: str) -> None:
    """Let checkpoints name this encoder class from now on, in this process: it is then imported, which runs its code.

    Commands call it with what the user typed after ``--model.encoder.class_path``; a notebook may too.
    """
    _trusted.add(class_path)


def infer_spec(state: Mapping[str, Tensor], asked: Mapping[str, Any] | None) -> Spec | None:
    """Read the architecture of a :class:`PatchTransformer` or TinyTimeMixer off its weights, which may have any prefix.

    The number of heads leaves no trace in the shapes: it is taken from what the user ``asked`` for, else one per 64 of
    width. None if these are other weights.
    """
    for key, filters in state.items():
        if not key.endswith("embedding.weight") or filters.ndim != 3:
            continue
        prefix = key.removesuffix("embedding.weight")
        if sizes := mixer_sizes(state, prefix):
            return {"class_path": TINY_TIME_MIXER, "init_args": sizes}
        numbers = [re.match(rf"{re.escape(prefix)}blocks\.(\d+)\.fc1\.weight$", name) for name in state]
        depths = [int(match.group(1)) for match in numbers if match]
        if 0 not in depths:
            continue
        width, _, patch_size = filters.shape
        heads = normal_spec(asked)["init_args"].get("heads", max(1, width // 64))
        hidden = state[f"{prefix}blocks.0.fc1.weight"].shape[0]
        arguments = {"patch_size": patch_size, "width": width, "depth": max(depths) + 1, "heads": heads}
        return {"class_path": PATCH_TRANSFORMER, "init_args": {**arguments, "mlp_ratio": hidden / width}}
    return None
