"""What the notebooks import: one line per topic, and where it lives in the package `swinunetr`.

Data walks one way. A JSON file and a folder become a `Dataset` of file names; `check_dataset` reads them all;
`prepare_cases` turns each case, once, into small tensors on the training grid; `training_batch` cuts the crops of one
step out of them. The network that belongs to the checkpoint is built, loaded and placed on the device. `RunFolder`
keeps the run. At the end `segment_case` takes each scan through the network and back to its own voxels.

    choices          parameters, settings  notebook parameters by type, and what identifies a run
                     recipe                the recipes and their bounds
    data             dataset, checks       JSON and folders, every fault of the files in one table
                     phantoms              synthetic CT where there are no data
                     preprocessing, cache  the training grid, and preprocessed cases on disk
                     batches               crops and augmentation of one step
    network          checkpoints           every public checkpoint: recognised, loaded, saved
                     checkpoint_layouts    how each of them names its tensors
                     network, fast_swin    patch merging, the network on its device, and what makes it fast
    hardware         devices               GPU or CPU, precision, processes that train together
    the run          run                   state, metrics, weights, and going on after a stop
    results          inference             sliding window, and the way back to the scan
                     metrics, evaluation   Dice and distances; scores of cases
                     plots, colours        pictures; the colour of each organ
    pre-training     pretraining           views of unlabelled volumes, and the tasks
    below all        files, tables         files written whole; tables that show in a notebook and in a log
                     errors                errors that show as one message

The loss, the optimizer and the training loop are in the notebooks themselves.
"""

# ruff: noqa: F401

from swinunetr import plots
from swinunetr.batches import augmentation, class_weights, next_case, training_batch, without_metadata
from swinunetr.checkpoints import (
    LoadReport,
    build_swinunetr,
    compare_responses,
    encoder_response,
    find_checkpoint,
    load_pretrained,
    training_note,
)
from swinunetr.checks import check_dataset
from swinunetr.colours import save_label_names
from swinunetr.dataset import (
    NOT_A_LIST,
    SECTIONS,
    SYNAPSE_FOLDERS,
    Dataset,
    case_name,
    find_volumes,
    locate,
    read_dataset,
    read_json,
    read_unlabelled,
)
from swinunetr.devices import find_hardware, parallel, versions
from swinunetr.errors import InputError
from swinunetr.evaluation import (
    describe_scores,
    describe_worst_cases,
    evaluate,
    resolution_ceiling,
    score_case,
    summarise,
    worst_and_best,
)
from swinunetr.files import claim_folder, replacing
from swinunetr.inference import segment_case
from swinunetr.metrics import confusion_matrix, dice_per_organ, mean_dice, organ_scores
from swinunetr.network import describe_speed, place_network
from swinunetr.phantoms import write_phantoms, write_unlabelled_phantoms
from swinunetr.preprocessing import MOST_CENTRES, intensity_window, prepare_cases, preprocessing
from swinunetr.pretraining import PretrainingNetwork, evaluate_tasks, pretraining_batch, task_losses
from swinunetr.recipe import (
    DEMO,
    LEAST,
    PRETRAINING_RECIPES,
    RECIPES,
    CommonRecipe,
    Recipe,
    describe_recipe,
    learning_rate_at,
)
from swinunetr.run import RunFolder, require_finite
from swinunetr.settings import choose_recipe, read_parameters, run_settings, trained_recipe

made_by = training_note  # its name before, which other projects import
