"""Small known networks, and checkpoints of them in every public layout."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from monai.networks.nets import SwinUNETR
from torch import nn

from swinunetr.network.checkpoints import build_swinunetr, save_weights
from swinunetr.recipe import DEMO

IMAGE = torch.rand(1, 4, 64, 32, 32, generator=torch.Generator().manual_seed(7))  # the bottleneck has two voxels


def known_network(classes=14, in_channels=1, **options):
    """Return a small network without equal tensors; the equal norms and biases of a new one would hide a swap."""
    torch.manual_seed(3)
    model = SwinUNETR(in_channels, classes, feature_size=12, **{"downsample": ReferenceMerging} | options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


class ReferenceMerging(nn.Module):
    """Patch merging of MONAI 0.9, written independently of the package, by indexing."""

    def __init__(self, dim, norm_layer=nn.LayerNorm, spatial_dims=3):
        super().__init__()
        self.reduction, self.norm = nn.Linear(8 * dim, 2 * dim, bias=False), norm_layer(8 * dim)

    def forward(self, x):
        slots = []
        for offset in ("000", "100", "010", "001", "101", "010", "001", "111"):  # d, h, w of slots 0 to 7
            d, h, w = (torch.arange(int(digit), size, 2) for digit, size in zip(offset, x.shape[1:4], strict=True))
            slots.append(x[:, d][:, :, h][:, :, :, w])
        return self.reduction(self.norm(torch.cat(slots, dim=-1)))


def extra(*names):
    """Return small tensors with the given names."""
    return {name: torch.full((3,), float(number)) for number, name in enumerate(names)}


def pair(*names):
    """Return a weight and a bias for each name."""
    return extra(*(f"{name}.{kind}" for name in names for kind in ("weight", "bias")))


def only(state, *prefixes):
    return {name: tensor for name, tensor in state.items() if name.startswith(prefixes)}


def buffers_first(state):
    return dict(sorted(state.items(), key=lambda item: item[1].is_floating_point()))


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def renamed(state, *changes):
    for old, new in changes:
        state = {name.replace(old, new): tensor for name, tensor in state.items()}
    return state


# Prefixes of all parts of SwinUNETR but the head.
BODY = ("swinViT.", "encoder", "decoder")

# Tensors that SwinUNETR does not use.
TEXT_HEADS = extra("organ_embedding") | pair(
    "precls_conv.0", "precls_conv.2", "GAP.0", "GAP.3", "controller", "text_to_vision"
)
PRETEXT = pair("rotation_head", "contrastive_head")
VAE_HEAD = pair(*(f"conv.{number}" for number in (0, 4, 8, 12, 16, 20)))


def ssl_50k(state):
    encoder_names = renamed(only(state, *BODY), ("swinViT.", "encoder."))
    body = {}
    for name, tensor in encoder_names.items():
        if name.startswith("encoder.layers"):
            name = name.replace(".0.", ".0.0.", 1)
        body[name] = tensor
    head = {"out.conv.conv.weight": torch.ones(1, 12, 1, 1, 1), "out.conv.conv.bias": torch.ones(1)}
    return {"model": extra("encoder.mask_token") | body | pair("encoder.norm") | head, "epoch": 7}


def swinvit_5k(state):
    bare = renamed(only(state, "swinViT."), ("swinViT.", ""), ("mlp.linear", "mlp.fc"))
    return {"state_dict": prefixed(bare | pair("norm", "convTrans3d") | PRETEXT, "module."), "epoch": 7}


def ssl_head(state):
    return {"state_dict": only(state, "swinViT.") | PRETEXT | VAE_HEAD, "optimizer": {"state": {}}}


def ssl_head_old(state):
    return prefixed(renamed(only(state, "swinViT."), ("swinViT.", "swin_vit.")) | PRETEXT | VAE_HEAD, "module.")


def brainsegfounder(state):
    return {"state_dict": prefixed(PRETEXT | VAE_HEAD | only(state, "swinViT."), "module.")}


def btcv(state):
    return {"epoch": 4999, "state_dict": state, "best_acc": np.float64(0.8), "history": np.arange(3.0)}


def suprem(state):
    return {"net": prefixed(TEXT_HEADS | prefixed(only(state, *BODY), "backbone."), "module."), "epoch": 2100}


def universal(state):
    return {"net": prefixed(TEXT_HEADS | only(state, *BODY), "module.")}


def voco(state):
    return only(state, "swinViT.", "encoder")


def voco_student(state):
    return {"state_dict": prefixed(prefixed(renamed(voco(state), ("swinViT", "swin_vit")), "module."), "student.")}


@dataclass(frozen=True)
class Layout:
    """A checkpoint layout and what is expected when it is loaded."""

    write: Callable
    family: str
    tensors: int  # in the file
    loaded: int  # of these
    covers: str  # the last part of the network that it fills: "swinViT", "encoder", "decoder" or "head"
    original: str = "v1"  # key of the fixture ``originals``
    zipped: bool = True  # False for the file format before PyTorch 1.6


LAYOUTS = {
    "ssl_50k": Layout(ssl_50k, "ssl_50k", 162, 157, "decoder"),
    "swinvit_5k": Layout(swinvit_5k, "swinvit_5k", 134, 126, "swinViT"),
    "swinvit_5k, old serialization": Layout(swinvit_5k, "swinvit_5k", 134, 126, "swinViT", zipped=False),
    "ssl_head": Layout(ssl_head, "ssl_head", 142, 126, "swinViT"),
    "ssl_head, old names": Layout(ssl_head_old, "ssl_head", 142, 126, "swinViT"),
    "btcv": Layout(btcv, "swinunetr", 159, 159, "head"),
    "brats": Layout(btcv, "swinunetr", 159, 159, "head", "four channels"),
    "model zoo bundle": Layout(lambda state: {"model": state}, "swinunetr", 159, 159, "head"),
    "bare state dict": Layout(dict, "swinunetr", 159, 159, "head"),
    "suprem": Layout(suprem, "universal", 170, 157, "decoder"),
    "voco": Layout(voco, "voco", 145, 145, "encoder", "v2"),
    "voco, student": Layout(voco_student, "voco", 145, 145, "encoder", "v2"),
    "vocomni": Layout(dict, "swinunetr_v2", 167, 167, "head", "v2"),
    "universal": Layout(universal, "universal", 170, 157, "decoder"),
    "brainsegfounder": Layout(brainsegfounder, "ssl_head", 142, 126, "swinViT", "four channels"),
}


def written(tmp_path, layout, state, name="weights.pt"):
    """Write a state dict in a layout, and return the path."""
    file = tmp_path / name
    torch.save(layout.write(buffers_first(state)), file, _use_new_zipfile_serialization=layout.zipped)
    return file


@torch.inference_mode()
def response(model, covers):
    """Return what the network computes with the parts that a layout fills, without the others."""
    image = IMAGE[:, : model.swinViT.patch_embed.proj.in_channels]
    model.eval()
    if covers == "head":
        return [model(image)]
    if covers == "decoder":
        kept = []
        with model.decoder1.register_forward_hook(lambda *call: kept.append(call[-1])):
            model(image)
        return kept
    features = model.swinViT(image)
    return features if covers == "swinViT" else [*features, model.encoder1(image), model.encoder10(features[4])]


def noted_weights(file, modality="CT", classes=("background", "liver"), **changes):
    """Write weights of a small network that note the demo's recipe with some values changed."""
    note = {"recipe": asdict(replace(DEMO, **changes)), "classes": classes, "modality": modality}
    save_weights(build_swinunetr(2, feature_size=12, window_size=4), file, note=note)
    return file
