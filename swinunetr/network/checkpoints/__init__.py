"""Files of weights: found, read, recognised, loaded into a SwinUNETR, and saved.

A checkpoint is read without running code and recognised by the names of all its tensors. Every tensor of the file and
of the network is accounted for. A checkpoint that does not fit raises a ``CheckpointError`` and changes nothing.

The rooms, in the order in which a file goes through them: ``finding`` (its path, or the download), ``reading`` (the
tensors and notes that it holds), ``recognition`` (family, size, patch merging and classes), ``classes`` (rows of the
head by the names of the classes), ``fitting`` (what happens to each tensor) and ``loading``. ``responses`` shows that
loading changed the encoder; ``saving`` writes a file.
"""

# ruff: noqa: F401

from swinunetr.network.checkpoints.classes import HeadRows, match_classes
from swinunetr.network.checkpoints.finding import SSL_50K_SHA256, SSL_50K_URL, find_checkpoint
from swinunetr.network.checkpoints.fitting import LoadReport
from swinunetr.network.checkpoints.loading import (
    Weights,
    build_swinunetr,
    load_pretrained,
    read_ensemble,
    require_buildable,
)
from swinunetr.network.checkpoints.recognition import merging_in, network_size, require_classes, training_note
from swinunetr.network.checkpoints.responses import compare_responses, encoder_response, response_changes
from swinunetr.network.checkpoints.saving import save_weights
