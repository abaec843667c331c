"""Build the SwinUNETR that fits a checkpoint, load the checkpoint into it, and save it again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import SwinUNETR
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from swinunetr.errors import CheckpointError
from swinunetr.files import replacing
from swinunetr.network.checkpoints.finding import existing_file, find_checkpoint
from swinunetr.network.checkpoints.fitting import LoadReport, fit
from swinunetr.network.checkpoints.reading import read_weights
from swinunetr.network.checkpoints.recognition import OTHER_WEIGHTS, POSITIONS, Checkpoint, read_checkpoint, traits_of
from swinunetr.network.layouts import first_few, part_of, refusal
from swinunetr.network.merging import MERGING, merging_of

Weights = Mapping[str, Tensor]  # state_dict of a network


def build_swinunetr(
    classes: int,
    checkpoint: str | os.PathLike | None = None,
    *,
    in_channels: int = 1,
    feature_size: int | None = None,
    window_size: int | None = None,
    use_checkpoint: bool = False,
    merging: str | None = None,
) -> SwinUNETR:
    """Build the SwinUNETR (v1 or v2) that fits a checkpoint. Its weights are random; ``load_pretrained`` loads them.

    Args:
        classes: Output channels, including background.
        checkpoint: Path of the checkpoint; None builds a v1 network for training from random weights.
        in_channels: Channels of the image.
        feature_size: None uses that of the checkpoint, or 48 without one.
        window_size: Voxels along each axis of an attention window; None uses that of the checkpoint, or 7 without one.
        use_checkpoint: Use activation checkpointing, which needs less memory and more time. Not related to
            ``checkpoint``.
        merging: Order of patch merging, ``"legacy"`` (MONAI 0.9 to 1.4) or ``"current"`` (MONAI 1.5 and later). None
            uses the order that the file notes, ``"legacy"`` if it notes none, and ``"current"`` without a file.

    Raises:
        CheckpointError: The file cannot be read, is not a known checkpoint, is of a design that SwinUNETR has no
            argument for here, such as 2D or other depths, or contradicts an argument.
        ValueError: ``merging`` is none of the values above.
    """
    if merging not in (None, *MERGING):
        raise ValueError(f"expected merging to be None or one of {list(MERGING)}, found {merging!r}")
    source = None if checkpoint is None else read_checkpoint(checkpoint, merging)
    default = {"feature_size": 48, "window_size": 7, "use_v2": False, "merging": "current"}
    traits: Mapping[str, Any] = source.traits if source else default
    model = SwinUNETR(
        in_channels=in_channels,
        out_channels=classes,
        feature_size=feature_size or traits["feature_size"],
        window_size=window_size or traits["window_size"],
        use_checkpoint=use_checkpoint,
        use_v2=traits["use_v2"],
        downsample=MERGING[merging or traits["merging"]],
    )
    if source:
        fit(source, model)  # raises CheckpointError if an argument contradicts the file
    return model


def load_pretrained(
    model: SwinUNETR,
    checkpoint: str | os.PathLike,
    *,
    merging: str | None = None,
    decoder: bool = True,
    classes: Sequence[str] | None = None,
) -> LoadReport:
    """Load a SwinUNETR checkpoint of any known layout into ``model``, completely or not at all.

    The head has one row per class. Where the file notes the names of its classes, as a ``best_model.pth`` does, each
    class of ``classes`` gets the row of the class with the same name, see ``match_classes``; the other rows of the
    network are unchanged. A file without names has its head loaded row by row, if the number of classes is the same.

    Args:
        model: A network of the same size as in the checkpoint, see ``build_swinunetr``.
        checkpoint: Path of the checkpoint.
        merging: As in ``build_swinunetr``.
        decoder: False leaves the decoder and the head unchanged, for a decoder that was trained for another task than
            segmentation.
        classes: Names of the output channels, including background. None compares the number of classes only.

    Raises:
        CheckpointError: The file cannot be read safely, is incomplete or unknown, contains NaN or infinity, or belongs
            to a network of another size or merging. The network is unchanged.
        TypeError: ``model`` is not a SwinUNETR, for example because it is wrapped in DistributedDataParallel.
        ValueError: ``classes`` has another length than the output of ``model``.
    """
    if not isinstance(model, SwinUNETR):
        raise TypeError(f"expected monai's SwinUNETR without a wrapper, found {type(model).__name__}")
    if classes is not None and len(classes) != len(model.out.conv.conv.bias):
        raise ValueError(f"expected a name for each of {len(model.out.conv.conv.bias)} classes, found {len(classes)}")
    source = read_checkpoint(checkpoint, merging)
    report = fit(source, model, decoder, classes)
    tensors = model.state_dict()
    _require_values(source, report, tensors)
    with torch.no_grad():
        for name, target in report.loaded.items():
            if target.endswith(POSITIONS) and source.tensors[name].is_floating_point():
                continue  # half precision has rounded them
            if report.head and part_of(target) == "head":
                for network_row, file_row in report.head.rows.items():
                    tensors[target][network_row].copy_(source.tensors[name][file_row])
            else:
                tensors[target].copy_(source.tensors[name])  # converts to the dtype and the device of the network
    return report


def read_ensemble(
    files: Sequence[str | os.PathLike], classes: Sequence[str], merging: str | None = None
) -> list[Weights]:
    """Return the weights of several networks of the same shape, with the head's rows in the order of ``classes``.

    ``merging`` is the order of patch merging of the files that note none, as in ``build_swinunetr``.

    Raises:
        CheckpointError: A file cannot be read, or is of another network than the first.
    """
    states: list[Weights] = []
    kinds = []
    for file in files:
        order = None if read_weights(existing_file(file)).notes.get("patch_merging") in MERGING else merging
        network = build_swinunetr(len(classes), file, merging=order)
        load_pretrained(network, file, merging=order, classes=classes)
        states.append(network.state_dict())
        kinds.append((merging_of(network), traits_of(states[-1])))
    if others := [file for file, kind in zip(files, kinds, strict=True) if kind != kinds[0]]:
        raise CheckpointError(
            f"'{others[0]}' is of another network than '{files[0]}'. Expected the same size of network and the same "
            "patch merging, as of several seeds or folds. Use them one by one."
        )
    return states


def require_buildable(checkpoint: str | os.PathLike, merging: str | None = None) -> None:
    """Check that a network for images of one channel can be built and filled with a checkpoint.

    ``merging`` is as in ``build_swinunetr``.

    Raises:
        CheckpointError: The file cannot be read or is of another network; the message says which.
    """
    source = read_checkpoint(find_checkpoint(checkpoint), merging)
    if (channels := source.traits["in_channels"]) != 1:
        problem = f"{source.family.title}, with {channels} input channels"
        raise refusal(source.file, problem, "weights for images of one channel, as here", OTHER_WEIGHTS)
    with _parameters_without_values():
        build_swinunetr(2, source.file, merging=merging)


def save_weights(model: SwinUNETR, path: str | Path, note: Mapping | None = None) -> None:
    """Write the state dict of a network, on any device, completely or not at all.

    Plain MONAI can load it: ``SwinUNETR(...).load_state_dict(torch.load(path, weights_only=True))``. The order of patch
    merging and ``note``, how the weights were trained as plain values, are in ``_metadata`` of the state dict, which
    torch saves and MONAI does not read. ``training_note`` returns the note.
    """
    state: Any = model.state_dict()
    for name, tensor in state.items():
        state[name] = tensor.cpu().contiguous()
    state._metadata[""] |= {"patch_merging": merging_of(model), "made_by": dict(note or {})}
    with replacing(path) as temporary, open(temporary, "wb") as file:  # by its path, the file would hold its name
        torch.save(state, file)


def encoder_response(model: SwinUNETR, image: Tensor) -> list[Tensor]:
    """Return the five feature maps of the Swin encoder, float32 on the CPU, each at half the resolution of the last.

    The image (B, C, X, Y, Z) has to be on the device of the network.
    """
    with torch.no_grad():
        return [features.float().cpu() for features in model.swinViT(image, model.normalize)]


def response_changes(before: list[Tensor], after: list[Tensor]) -> list[float]:
    """Return the relative change of each encoder stage: the norm of the difference over the norm of ``before``."""
    return [float((new - old).norm() / old.norm()) for old, new in zip(before, after, strict=True)]


def compare_responses(before: list[Tensor], after: list[Tensor]) -> str:
    """Describe how much loading changed the ``encoder_response`` to the same image, one line per stage.

    Raises:
        CheckpointError: The response of a stage did not change, so its weights were not loaded.
    """
    changes = response_changes(before, after)
    if 0 in changes:
        raise CheckpointError(
            f"The response of encoder stage {changes.index(0)} did not change: its weights were not loaded. "
            "Call load_pretrained on this network between the two calls of encoder_response."
        )
    return "\n".join(f"encoder stage {i}: response changed by {change:.0%}" for i, change in enumerate(changes))


@contextmanager
def _parameters_without_values() -> Iterator[None]:
    """Give the parameters of networks that are built in the block no memory and no random values."""

    def emptied(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter:
        return nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    hook = register_module_parameter_registration_hook(emptied)  # type: ignore[arg-type]  # which may return one
    try:
        yield
    finally:
        hook.remove()


def _require_values(source: Checkpoint, report: LoadReport, tensors: Weights) -> None:
    """Check that what is to be loaded has no NaN or infinity, and no positions outside of the attention window."""
    broken, outside = [], []
    for name, target in report.loaded.items():
        low, high = source.tensors[name].aminmax()  # both NaN if any value is; no copies
        if not (low.isfinite() and high.isfinite()):
            broken.append(name)
        elif target.endswith(POSITIONS) and (low < 0 or high > tensors[target].max()):
            outside.append(name)
    if broken:
        raise refusal(source.file, f"{report.title} with NaN or infinity in {first_few(broken)}")
    if outside:
        raise refusal(source.file, f"{report.title} with positions outside of the window in {first_few(outside)}")
