"""Read a file of weights without running code from it, and find the network's tensors among what else it holds."""

from __future__ import annotations

import re
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swinunetr.errors import CheckpointError
from swinunetr.files import check_zip, stamp, stand_in
from swinunetr.network.layouts import GET_AGAIN, first_few, holds_swin, refusal

# Keys under which training code stores the tensors; of several networks in a file, the first of these is used.
WRAPPERS = ("state_dict", "model", "net", "model_state_dict", "network_weights")
DEEPEST = 3  # dictionaries inside each other that are searched for networks
STATE = {"step", "settings", "history", "rng", "model"}  # keys of the state of a run, see ``run_folder``
RUN_WEIGHTS = ("best_model.pth", "ssl_pretrained_weights.pth")  # what a run writes beside its state
ARCHIVES = ("a zip archive of something else", "a tar or gzip archive")
MOST_UNKNOWN = 1000  # classes of other packages in one file
MOST_KEPT = 8  # files


@dataclass(frozen=True)
class WeightsFile:
    """The tensors of a network in a file, and what else the file holds."""

    file: Path
    tensors: Mapping[str, Tensor]  # by name
    notes: Mapping[str, Any]  # what ``save_weights`` wrote beside them, by name; empty for files from elsewhere
    ignored: tuple[str, ...]  # names of the entries that are not tensors, such as "epoch"
    unused: tuple[str, ...]  # keys of further networks in the file, such as "ema"


_kept: dict[Path, tuple[tuple, WeightsFile]] = {}  # by path, the stamp of a file and its content


def read_weights(file: Path) -> WeightsFile:
    """Read a file of weights, once in this process while it does not change.

    Tensors are memory-mapped where the format allows. Of other files nothing is kept, as it would fill the memory.

    Raises:
        CheckpointError: The file is damaged, is none of ``torch.save``, would run code, is the state of a run, or has
            no named tensors or several networks of which none is under one of ``WRAPPERS``.
    """
    stamped = stamp(file)  # before reading: a file that is replaced meanwhile is read again by the next call
    if file in _kept and _kept[file][0] == stamped:
        return _kept[file][1]
    _kept.pop(file, None)  # a mapping would keep the space of a replaced file
    content, mapped = _load(file)
    weights = _network_in(content, file)
    if mapped:
        _kept[file] = (stamped, weights)
        if len(_kept) > MOST_KEPT:
            del _kept[next(iter(_kept))]  # the oldest
    return weights


def _network_in(content: Mapping, file: Path) -> WeightsFile:
    """Choose the network in the content of a file."""
    if content.keys() >= STATE:
        raise _state_refusal(file)
    dictionaries = dict(_dictionaries(content))
    networks = [key for key, tensors in dictionaries.items() if holds_swin(tensors)]
    named = [key for key in networks if not key or key in WRAPPERS]
    if len(networks) > 1 and not named:
        place = "".join(f'["{name}"]' for name in networks[0].split("."))
        problem = f"several networks ({first_few(networks)}), of which one is needed"
        raise refusal(file, problem, remedy=_writing(file, place))

    # A network under the best name, else any network, else tensors that ``recognise`` can name in its refusal.
    wrapped = [key for key in WRAPPERS if key in dictionaries]
    key = min(named, key=("", *WRAPPERS).index) if named else next(iter((*networks, *wrapped, *dictionaries)), None)
    if key is None:
        raise refusal(file, _without_tensors(content), f"named tensors, at the top level or in one of {WRAPPERS}")

    # What else there is, on the way to its tensors and beside them.
    unused = tuple(other for other in networks if other != key)
    accounted = dictionaries[key].keys() | {part for name in (key, *unused) for part in name.split(".")}
    entries, names = content, [*content]
    for part in key.split(".") if key else ():
        entries = entries[part]
        names += entries
    metadata = getattr(entries, "_metadata", None)
    notes = metadata.get("") if isinstance(metadata, Mapping) else None
    return WeightsFile(
        file=file,
        tensors=dictionaries[key],
        notes=notes if isinstance(notes, Mapping) else {},
        ignored=tuple(str(name) for name in names if name not in accounted),
        unused=unused,
    )


class _Unknown:
    """Stands for every function and class that ``torch.load`` does not know, and gives an empty dictionary.

    So what training code stores beside the tensors (an ``argparse.Namespace``, the configuration of another package)
    can be read without that package, and nothing of it runs.
    """

    def __new__(cls, *args: object) -> Any:
        return OrderedDict()  # the one type that PyTorch's reader fills with both items and attributes


class _UnknownPartial:
    """Stands for ``functools.partial``, whose content is neither items nor attributes."""

    def __init__(self, *args: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _load(file: Path) -> tuple[Mapping, bool]:
    """Return the dictionary in a file without running code from it, and whether its tensors are memory-mapped."""
    unknown: list[str] = []
    try:
        if kind := _not_weights(file):
            raise refusal(file, kind, remedy="Unpack it." if kind in ARCHIVES else GET_AGAIN)
        zipped = zipfile.is_zipfile(file)
        if zipped:
            check_zip(file)
        mapped = zipped and all(part.compress_type == zipfile.ZIP_STORED for part in zipfile.ZipFile(file).infolist())
        content = _load_without(unknown, file, mapped)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise _unreadable(file, error) from error
    if isinstance(content, list | tuple) and any(isinstance(part, Mapping) for part in content):
        remedy = _writing(file, f"[{len(content) - 1}]")
        raise refusal(file, f"a list of {len(content)} dictionaries, of which one is needed", remedy=remedy)
    if not isinstance(content, Mapping):
        raise refusal(file, f"a saved {type(content).__name__}")
    if unknown and not any(True for _ in _dictionaries(content)):  # but a module that was saved as a whole
        place = next((f'["{name}"]' for name in WRAPPERS if name in content), "")
        raise refusal(file, _kind(unknown[0]), remedy=_writing(file, f"{place}.state_dict()"))
    return content, mapped


def _load_without(unknown: list[str], file: Path, mapped: bool) -> object:
    """Return the content of a file, with ``_Unknown`` for the names that ``torch.load`` refuses; list these.

    A file that was packed again with compression cannot be memory-mapped.
    """
    while True:
        stand_ins = [(_UnknownPartial if name == "functools.partial" else _Unknown, name) for name in unknown]
        try:
            with torch.serialization.safe_globals(_numpy_globals() + stand_ins):
                return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
        except Exception as error:
            name = _refused_name(error)
            if name is None or name in unknown or len(unknown) == MOST_UNKNOWN:
                raise
            unknown.append(name)


def _refused_name(error: Exception) -> str | None:
    """Return the function or class that ``torch.load`` refused, with its module; None for other errors."""
    refused = re.search(r"GLOBAL (\S+)", str(error))
    if refused is None:
        return None
    return refused[1] if "." in refused[1] else f"builtins.{refused[1]}"  # which the message leaves out


def _not_weights(file: Path) -> str | None:
    """Return what a file is if its first bytes show that ``torch.save`` did not write it, else None."""
    if kind_and_remedy := stand_in(file):
        return kind_and_remedy[0]
    with file.open("rb") as opened:
        start = opened.read(64)
    if re.match(rb".{8}\s*\{", start, re.DOTALL):  # eight bytes of length, then JSON
        return "a safetensors file"
    if start.startswith(b"\x1f\x8b") or tarfile.is_tarfile(file):
        return ARCHIVES[1]
    if not start.startswith(b"PK"):
        return None
    if not zipfile.is_zipfile(file):
        return "an incomplete PyTorch file"
    try:
        members = {Path(name).name for name in zipfile.ZipFile(file).namelist()}
    except Exception:  # a damaged list of contents, which check_zip reports
        return None
    if "constants.pkl" in members:
        return "a TorchScript program"
    return None if "data.pkl" in members else ARCHIVES[0]


def _numpy_globals() -> list:
    """Return the numpy functions and classes that ``torch.load`` may use for numbers and arrays beside the tensors."""
    makers: list[Any] = [np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]]
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")  # in files of numpy 1 and of numpy 2
    named_makers = [(maker, f"{module}.{maker.__name__}") for maker in makers for module in modules]
    codes = "?" + np.typecodes["AllInteger"] + np.typecodes["Float"]
    return [np.ndarray, np.dtype, *named_makers, *{type(np.dtype(code)) for code in codes}]


def _dictionaries(content: Mapping, key: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the tensors by name of each dictionary that has any, with its keys in the file joined by dots."""
    if tensors := {n: value for n, value in content.items() if isinstance(n, str) and isinstance(value, Tensor)}:
        yield key, tensors
    if key.count(".") < DEEPEST - 1:
        for name, inner in content.items():
            if isinstance(name, str) and "." not in name and isinstance(inner, Mapping):
                yield from _dictionaries(inner, f"{key}.{name}" if key else name)


def _without_tensors(content: Mapping) -> str:
    """Return what a dictionary without named tensors is."""
    if any("param_groups" in part for part in (content, *content.values()) if isinstance(part, Mapping)):
        return "the state of an optimizer"
    return f"a dictionary without a network's tensors (it has {first_few(content) or 'nothing'})"


def _state_refusal(file: Path) -> CheckpointError:
    """Return the error that refuses the state of a run, with the weights to use in its place."""
    beside = [file.with_name(name) for name in RUN_WEIGHTS if file.with_name(name).is_file()]
    weights = f"the {' or '.join(RUN_WEIGHTS)} of that run, which its first validation writes"
    problem = "the state of a run: its last weights, which need not be its best, without a note of their patch merging"
    return refusal(file, problem, remedy=f"Use '{beside[0]}'." if beside else f"Use {weights}.")


def _unreadable(file: Path, error: Exception) -> CheckpointError:
    """Return the error that refuses a file which could not be read."""
    if isinstance(error, OSError):
        return CheckpointError(f"{file}: cannot be read ({error.strerror or error}). Ask for access, or copy it again.")
    if name := _refused_name(error):
        return refusal(file, _kind(name), remedy=_writing(file, '["state_dict"]'))
    if isinstance(error, zipfile.BadZipFile):
        return refusal(file, f"a damaged file ({error})", remedy="Copy or download it again.")
    if zipfile.is_zipfile(file):  # its checksums are right
        reason = re.search(r"WeightsUnpickler error: (.*)", str(error))
        problem = f"a pickle that cannot be read without trust ({reason[1] if reason else type(error).__name__})"
        return refusal(file, problem, remedy=_writing(file, ""))
    return refusal(file, "a damaged file, or not a PyTorch file", remedy="Copy or download it again.")


def _kind(name: str) -> str:
    """Return what a file is whose content is made by a function or class of this name."""
    if name.startswith(("torch.nn.", "monai.")):
        return f"a pickled module ({name}) instead of its state_dict()"
    return f"a pickle that would run code ({name}), which did not run"


def _writing(file: Path, place: str) -> str:
    """Return what to do with a trusted file: code that writes its tensors alone, which are at a place in it."""
    code = f'torch.save(torch.load("{file}", weights_only=False){place}, "weights.pth")'
    return f"If you trust the file, which can run code, and have what it needs installed, write them alone: {code}"
