"""Files of weights: found, read, recognised, loaded into a SwinUNETR, and saved.

A checkpoint is read without running code and recognised by the names of all its tensors. Every tensor of the file and
of the network is accounted for. A checkpoint that does not fit raises a ``CheckpointError`` and changes nothing.

The rooms, in the order in which a file goes through them: ``finding`` (its path, or the download), ``reading`` (the
tensors and notes that it holds), ``recognition`` (family, size, patch merging and classes), ``fitting`` (what happens
to each tensor, and to each row of the head) and ``loading``, which also saves.
"""

# ruff: noqa: F401

from swinunetr.network.checkpoints.finding import SSL_50K_SHA256, SSL_50K_URL, find_checkpoint
from swinunetr.network.checkpoints.fitting import LoadReport, match_classes, require_classes
from swinunetr.network.checkpoints.loading import (
    Weights,
    build_swinunetr,
    compare_responses,
    encoder_response,
    load_pretrained,
    read_ensemble,
    require_buildable,
    response_changes,
    save_weights,
)
from swinunetr.network.checkpoints.recognition import merging_in, network_size, training_note, traits_of
