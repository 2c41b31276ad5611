"""Pretrained weights in: find an encoder in a file, load it by name, say what became of every key, verify it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from butppg_lightning.errors import UserError
from butppg_lightning.models.about import ABOUT_KEY, identity, in_words
from butppg_lightning.models.architecture import Spec, build_encoder, infer_spec, normal_spec
from butppg_lightning.models.checkpoints import (
    HOW_TO_PRETRAIN,
    network_weights,
    read_stored,
    read_tensors,
    require_finite,
    stored_options,
)
from butppg_lightning.models.inflation import Inflation, inflate_filters, verify_inflation
from butppg_lightning.models.tiny_time_mixer import own_names
from butppg_lightning.shipped import SUFFIX, fetch
from butppg_lightning.window import WINDOW_SAMPLES, channel_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import nn

    from butppg_lightning.models.encoder import Encoder

_CONTAINERS = ("encoder_state_dict", "model_state_dict", "state_dict", "model")
_FILTERS, _ABSENT, _HEAD = "embedding.weight", "embedding.absent", "network.head."


@dataclass
class LoadReport:
    """What became of every key when an encoder was loaded."""

    path: str  # of the checkpoint
    matched: list[str] = field(default_factory=list)  # copied as they are
    inflated: list[str] = field(default_factory=list)  # made from the pretrained ones for other channels
    missing: list[str] = field(default_factory=list)  # not in the checkpoint; they keep their initial values
    unused: list[str] = field(default_factory=list)  # of the checkpoint, without a place in the model
    channels: dict[str, str] = field(default_factory=dict)  # each channel's filters, checked; empty if none inflated
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return a summary with the keys that were not simply matched."""
        lines = [
            f"pretrained encoder from {self.path}: {len(self.matched)} keys matched, {len(self.inflated)} inflated, "
            f"{len(self.missing)} missing, {len(self.unused)} unused"
        ]
        for kind in ("inflated", "missing", "unused"):
            keys = getattr(self, kind)
            if keys:
                lines.append(f"  {kind}: {', '.join(keys[:6])}{f' and {len(keys) - 6} more' if len(keys) > 6 else ''}")
        lines += [f"  {name}: {finding}" for name, finding in self.channels.items()]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


@dataclass
class PretrainedEncoder:
    """The encoder part of the checkpoint ``path``: every state dict in it, most specific first, and what it says.

    ``spec``, ``channels`` and ``preprocess`` are None where it does not; ``declared`` is False for a spec that was
    inferred from shapes. ``config`` is the one of the package that fits an exported model, ``model`` says which it is.
    """

    path: str
    containers: list[dict[str, Tensor]]
    spec: Spec | None
    channels: tuple[str, ...] | None
    preprocess: dict[str, Any] | None
    declared: bool
    config: str | None = None
    model: str = ""
    head: tuple[Any, Any] = (None, None)  # a classifier's, and the groups of indices that it is given


def read_encoder(path: Path | str, asked: Mapping[str, Any] | None = None) -> PretrainedEncoder:
    """Read a checkpoint and find the encoder in it.

    Own checkpoints, exported models (a folder, or ``shipped``), Lightning ``.ckpt`` files, bare state dicts,
    TinyTimeMixers of granite-tsfm (also a folder of theirs, or ``owner/name`` on the Hugging Face hub) and any of the
    usual prefixes (``model.``, ``encoder.``, ``module.``) are understood. The user's architecture ``asked`` counts only
    where the file is silent.
    """
    content = _read(path)
    containers = [_tensors(content[key]) for key in _CONTAINERS if isinstance(content.get(key), dict)]
    containers = [state for state in [*containers, _tensors(content)] if state]
    if not containers:
        raise UserError(f"{path} holds no weights; its keys are {', '.join(map(str, list(content)[:8]))}")
    forecaster = [own_names(state, str(path)) for state in containers]
    containers = [state if named is None else named for state, named in zip(containers, forecaster, strict=True)]
    options = stored_options(content)
    declared = isinstance(options.get("encoder"), dict)
    spec = normal_spec(options["encoder"]) if declared else None
    for state in containers:
        spec = spec or infer_spec(state, asked)
    channels = spec["init_args"].get("channels") if spec else None
    if not declared and any(forecaster):
        channels = ["PPG"]  # its one filter bank is any channel's; the windows are rated by their PPG
    preprocess, known = options.get("preprocess"), identity(content)
    return PretrainedEncoder(
        path=str(path),
        containers=containers,
        spec=spec,
        channels=channel_names(channels) if channels else None,
        preprocess=preprocess if isinstance(preprocess, dict) else None,
        declared=declared,
        config=content[ABOUT_KEY].get("config") if known else None,
        model=in_words(known) if known else "",
        head=(options.get("head"), options.get("indices")),
    )


def load_encoder(
    encoder: nn.Module, source: PretrainedEncoder, source_channels: Sequence[str] | None, inflation: Inflation
) -> LoadReport:
    """Copy pretrained weights into ``encoder``, in place, inflating the filters by channel name.

    ``source_channels`` names the pretrained channels where the checkpoint does not say; None for the standard names of
    its number of channels. Refused is a source that matches nothing, differs in a shape or contradicts these names.
    """
    target = encoder.state_dict()
    state, prefix = _best_match(source, target)
    names = _source_channels(source, source_channels, state[prefix + _FILTERS])
    channels = cast("Encoder", encoder).channels
    report = LoadReport(source.path, notes=[source.model] if source.model else [])
    filled: dict[str, Tensor] = {}
    for key, tensor in target.items():
        stored = state.get(prefix + key)
        if stored is not None:
            require_finite(source.path, key, stored, tensor)
        if key == _ABSENT:
            if stored is not None:
                _check_shape(source.path, key, stored, tensor[:1].expand(len(names), -1))
            filled[key] = torch.zeros_like(tensor)
            for row, name in enumerate(channels):
                if stored is not None and name in names:
                    filled[key][row] = stored[names.index(name)]
            (report.inflated if names != channels or stored is None else report.matched).append(key)
        elif stored is None:
            report.missing.append(key)
        elif key == _FILTERS and names != channels:
            _check_shape(source.path, key, stored, tensor[:, :1].expand(-1, len(names), -1))
            filled[key] = inflate_filters(stored.to(tensor.dtype), names, channels, inflation)
            report.channels = verify_inflation(stored.to(tensor.dtype), filled[key], names, channels, inflation)
            report.inflated.append(key)
        else:
            _check_shape(source.path, key, stored, tensor)
            filled[key] = stored
            report.matched.append(key)
    if report.missing and source.declared:
        raise UserError(
            f"{source.path} declares an encoder whose {report.missing[0]} it does not hold "
            f"({len(report.missing)} keys are missing): it is incomplete; write it again"
        )
    known = {prefix + key for key in target}
    report.unused = [key for key in state if key not in known]
    if inner := [key for key in report.unused if key.startswith(f"{prefix}blocks.")]:
        raise UserError(
            f"{source.path} holds {inner[0]}, for which this encoder has no place; it computes something else"
        )
    if not source.declared and source.spec is not None:
        heads = source.spec["init_args"].get("heads")
        assumed = f"{heads} heads" if heads else "softmax gates and, unless asked, two contexts"
        report.notes.append(f"the file does not state its architecture: read off the shapes, with {assumed} assumed")
        if not heads and names == ("PPG",):
            report.notes.append("a forecaster's filters are those of any channel; here they are taken for the PPG's")
    encoder.load_state_dict(filled, strict=False)
    return report


@torch.no_grad()
def load_head(
    head: nn.Module, name: str, indices: Sequence[str] | None, source: PretrainedEncoder, report: LoadReport
) -> None:
    """Copy a pretrained classifier's head into ``head``, in place, with what it standardises its inputs by.

    Raises:
        UserError: If the source is no classifier with a head of this ``name``, ``indices`` and shape.
    """
    if source.head != (name, indices):
        has = "none" if source.head[0] is None else f"{source.head[0]} with indices {source.head[1]}"
        raise UserError(
            f"model.pretrained_head needs a classifier with head {name} and indices {indices}; the head of "
            f"{source.path} is {has}"
        )
    stored = next((state for state in source.containers if any(key.startswith(_HEAD) for key in state)), {})
    for key, tensor in head.state_dict().items():
        if (value := stored.get(_HEAD + key)) is None:
            raise UserError(f"{source.path} declares a head whose {key} it does not hold; write it again")
        require_finite(source.path, f"head.{key}", value, tensor)
        _check_shape(source.path, f"head.{key}", value, tensor)
        tensor.copy_(value)  # a view of the module's
        report.matched.append(f"head.{key}")
    report.unused = [key for key in report.unused if not key.startswith(_HEAD)]


def _best_match(source: PretrainedEncoder, target: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Return the state dict, and the prefix in it, under which most keys of ``target`` are found."""
    best: tuple[int, dict[str, Tensor], str] = (0, {}, "")
    for state in source.containers:
        prefixes = {key.removesuffix(_FILTERS) for key in state if key.endswith(_FILTERS)}
        for prefix in sorted(prefixes, key=len):
            if prefix and not prefix.endswith("."):
                continue
            count = sum(prefix + key in state for key in target)
            if count > best[0]:
                best = (count, state, prefix)
    if not best[0]:
        found = ", ".join(list(source.containers[0])[:4])
        raise UserError(
            f"no key of {source.path} matches the encoder (it has {found} ...); "
            f"give a checkpoint of this encoder, or {HOW_TO_PRETRAIN}"
        )
    return best[1], best[2]


def _source_channels(source: PretrainedEncoder, asked: Sequence[str] | None, filters: Tensor) -> tuple[str, ...]:
    count = filters.shape[1] if filters.ndim == 3 else -1
    if source.channels and asked and tuple(asked) != source.channels:
        raise UserError(
            f"pretrain_channels says {list(asked)}, but {source.path} holds {list(source.channels)}; drop the flag"
        )
    names = source.channels or (tuple(asked) if asked else channel_names(count))
    if len(names) != count:
        raise UserError(f"pretrain_channels names {len(names)} channels, but {source.path} has filters for {count}")
    return names


def _check_shape(path: str, key: str, stored: Tensor, tensor: Tensor) -> None:
    if stored.shape != tensor.shape:
        raise UserError(
            f"{path} has {key} of shape {list(stored.shape)}, the model {list(tensor.shape)}; "
            "leave the encoder's sizes to the checkpoint"
        )


def _read(path: Path | str) -> dict[str, Any]:
    """Read a checkpoint, an exported model, or another library's tensors, wherever they are; nothing is run."""
    found = fetch(path)
    if found.suffix == SUFFIX:
        tensors, _ = read_tensors(found)
        if not any(key.startswith("network.") for key in tensors):
            return dict(tensors)
    return read_stored(found)


def _tensors(state: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}


@torch.no_grad()
def verify_pretrained(encoder: nn.Module, checkpoint: Path, inflation: Inflation) -> dict[str, str]:
    """Compare an inflated, not yet fine-tuned encoder with the checkpoint it was made from.

    Checked are the filters of every channel (copied ones bit-equal, new ones with the statistics asked for), every
    other weight (bit-equal), and with ``zero`` inflation the output on the same PPG and ECG, with noise on the new
    channels: it must equal the pretrained encoder's in every bit.

    Args:
        encoder: The inflated encoder, for example ``model.network.encoder``.
        checkpoint: The pretrained checkpoint.
        inflation: The options it was inflated with.

    Returns:
        A finding per channel, and for ``weights`` and ``output``.

    Raises:
        UserError: If something is not as it should be; the line names it.
    """
    source = read_encoder(checkpoint)
    inflated = cast("Encoder", encoder)
    if source.spec is None:
        raise UserError(f"{checkpoint} holds no encoder that could be compared")
    channels = source.channels or inflated.channels
    original, _ = build_encoder(source.spec, channels, named_by_user=False)
    load_encoder(original, source, channels, Inflation())
    filters, copied = (cast("Tensor", module.embedding.weight) for module in (cast("Encoder", original), inflated))
    findings = verify_inflation(filters, copied, channels, inflated.channels, inflation)
    for key, value in original.state_dict().items():
        if not key.startswith("embedding.") and not torch.equal(value, encoder.state_dict()[key]):
            raise UserError(f"inflation check: {key} is not the pretrained one")
    findings["weights"] = "all others bit-equal"
    if inflation.new_channels == "zero" and not inflation.preserve_variance:
        signals = torch.randn(4, len(inflated.channels), WINDOW_SAMPLES, generator=torch.Generator().manual_seed(0))
        known = signals[:, [inflated.channels.index(name) for name in channels]]
        if not torch.equal(original.eval()(known), encoder.eval()(signals)):
            raise UserError("inflation check: the inflated encoder's output differs from the pretrained one's")
        findings["output"] = "equal on the same channels, whatever the new ones hold"
    return findings


def read_pretraining(path: Path, channels: Sequence[str], asked: Mapping[str, Any] | None = None) -> PretrainedEncoder:
    """Read a checkpoint of `butppg pretrain`, in order to go on from it with :func:`load_autoencoder`.

    Other ``channels``, or another order, are refused: two sets of one size have weights of the same shape. Bare weights
    of an encoder, which state no architecture, are read as :func:`read_encoder` does, for :func:`load_encoder`.
    """
    content = _read(path)
    options, state = stored_options(content), network_weights(content)
    if not options:
        return read_encoder(path, asked)
    if state is None or "decoder_width" not in options:
        raise UserError(f"{path} is no checkpoint of `butppg pretrain`; give the best_model.pt that it wrote")
    scaling, names = options.get("preprocess"), options.get("channels")
    stored = channel_names(names if isinstance(names, (int, list)) else [])
    if tuple(channels) != stored:
        raise UserError(
            f"{path} was trained on {', '.join(stored)}, this model is of {', '.join(channels)}; "
            "go on with the same model.channels (data.use_channels leaves some of them out)"
        )
    preprocess = scaling if isinstance(scaling, dict) else {}
    return PretrainedEncoder(str(path), [state], normal_spec(options.get("encoder")), stored, preprocess, declared=True)


def load_autoencoder(network: nn.Module, source: PretrainedEncoder) -> None:
    """Copy all weights of an earlier pretraining into an autoencoder, decoder included; the first misfit is refused."""
    state, wanted = source.containers[0], network.state_dict()
    for key, value in wanted.items():
        found = state.get(key)
        if found is None or found.shape != value.shape:
            raise UserError(
                f"{source.path} holds {key} as {[] if found is None else list(found.shape)}, this model wants "
                f"{list(value.shape)}; go on with the same encoder and decoder "
                "(a classifier takes only the encoder: butppg fit)"
            )
        require_finite(source.path, key, found, value)
    network.load_state_dict({key: state[key] for key in wanted})
