"""Every public checkpoint layout, written from small known networks, for the tests of checkpoints."""

from dataclasses import dataclass

import numpy as np
import torch
from monai.networks.nets import SwinUNETR
from torch import nn

IMAGE = torch.rand(1, 4, 64, 32, 32, generator=torch.Generator().manual_seed(7))  # the bottleneck has two voxels


class OracleMerging(nn.Module):
    """State MONAI 0.9's order once more, by indexing: (d, h, w) offsets of slots 0 to 7."""

    def __init__(self, dim, norm_layer=nn.LayerNorm, spatial_dims=3):
        super().__init__()
        self.reduction, self.norm = nn.Linear(8 * dim, 2 * dim, bias=False), norm_layer(8 * dim)

    def forward(self, x):
        slots = []
        for offset in ("000", "100", "010", "001", "101", "010", "001", "111"):
            d, h, w = (torch.arange(int(digit), size, 2) for digit, size in zip(offset, x.shape[1:4], strict=True))
            slots.append(x[:, d][:, :, h][:, :, :, w])
        return self.reduction(self.norm(torch.cat(slots, dim=-1)))


def known_network(classes=14, in_channels=1, **options):
    """Build a small network no two tensors of which are alike: fresh norms and biases would hide a swap."""
    torch.manual_seed(3)
    model = SwinUNETR(in_channels, classes, feature_size=12, **{"downsample": OracleMerging} | options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def extra(*names):
    return {name: torch.full((3,), float(number)) for number, name in enumerate(names)}


def pair(*names):
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


BODY = ("swinViT.", "encoder", "decoder")

TEXT_HEADS = extra("organ_embedding") | pair(
    "precls_conv.0", "precls_conv.2", "GAP.0", "GAP.3", "controller", "text_to_vision"
)

PRETEXT = pair("rotation_head", "contrastive_head")
VAE_HEAD = pair(*(f"conv.{number}" for number in (0, 4, 8, 12, 16, 20)))


def ssl_50k(state):
    inner = renamed(only(state, *BODY), ("swinViT.", "encoder."))
    inner = {
        name.replace(".0.", ".0.0.", 1) if name.startswith("encoder.layers") else name: t for name, t in inner.items()
    }
    head = {"out.conv.conv.weight": torch.ones(1, 12, 1, 1, 1), "out.conv.conv.bias": torch.ones(1)}
    return {"model": extra("encoder.mask_token") | inner | pair("encoder.norm") | head, "epoch": 7}


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
    """What a layout holds: tensors in the file, and how many of them SwinUNETR has a place for."""

    write: callable
    family: str
    tensors: int
    loaded: int
    covers: str  # the last part of the network that it fills: "swinViT", "encoder", "decoder" or "head"
    original: str = "v1"
    zipped: bool = True


LAYOUTS = {
    "1, 5c": Layout(ssl_50k, "ssl_50k", 162, 157, "decoder"),
    "2": Layout(swinvit_5k, "swinvit_5k", 134, 126, "swinViT"),
    "2, before zip": Layout(swinvit_5k, "swinvit_5k", 134, 126, "swinViT", zipped=False),
    "2b": Layout(ssl_head, "ssl_head", 142, 126, "swinViT"),
    "2b, bare, old names": Layout(ssl_head_old, "ssl_head", 142, 126, "swinViT"),
    "3, 5b": Layout(btcv, "swinunetr", 159, 159, "head"),
    "3b": Layout(btcv, "swinunetr", 159, 159, "head", "four channels"),
    "4, bundle": Layout(lambda state: {"model": state}, "swinunetr", 159, 159, "head"),
    "4, bare": Layout(dict, "swinunetr", 159, 159, "head"),
    "5a, 7 retrained": Layout(suprem, "universal", 170, 157, "decoder"),
    "6a": Layout(voco, "voco", 145, 145, "encoder", "v2"),
    "6a, student": Layout(voco_student, "voco", 145, 145, "encoder", "v2"),
    "6c": Layout(dict, "swinunetr_v2", 167, 167, "head", "v2"),
    "7": Layout(universal, "universal", 170, 157, "decoder"),
    "9": Layout(brainsegfounder, "ssl_head", 142, 126, "swinViT", "four channels"),
}


def written(tmp_path, layout, state, name="weights.pt"):
    file = tmp_path / name
    torch.save(layout.write(buffers_first(state)), file, _use_new_zipfile_serialization=layout.zipped)
    return file


@torch.inference_mode()
def response(model, covers):
    """Return what the network computes with the parts that a layout fills, and no others."""
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
