"""What the notebooks import, by topic, and in which module of the package `swinunetr` it is.

Data flow in one direction. A JSON file and a folder become a `Dataset` of file names, and `check_dataset` reads all of
them. `prepare_cases` turns each case, once, into small tensors on the training grid; `training_batch` cuts the crops of
one step out of them. The network that belongs to the checkpoint is built, loaded and placed on the device. `RunFolder`
writes the results of the run. At the end `segment_case` segments each scan and resamples the result to its own grid.

    choices          parameters, settings  notebook parameters by type, and what identifies a run
                     recipe                the recipes and their bounds
    data             dataset, checks       JSON and folders; all problems of the files in one table
                     geometry              one affine of a scan for all its uses, and the volume of a voxel
                     modality, hounsfield  whether a scan is CT, and whether its intensities are Hounsfield units
                     dicom                 DICOM series of a folder; their voxels as NIfTI
                     dicom.instance        what is needed of one file
                     dicom.headers         what its header says
                     dicom.reading         which files are DICOM, and whether they are complete
                     dicom.grouping        the files of one series, without copies
                     dicom.geometry        whether their slices are a volume, and its affine
                     dicom.series          the series of a folder, and those that are left out
                     dicom.decoding        the voxels of one file
                     dicom.voxels          those of a series
                     label_maps            partial labels, and label files that number organs otherwise
                     phantoms              synthetic CT where there are no data
                     varied_phantoms       synthetic CT that varies more, to measure on
                     preprocessing, cache  the training grid, and preprocessed cases on disk
                     batches, threads      crops and augmentation of one step; made while a GPU computes
    network          checkpoints           every public checkpoint: recognised, loaded, saved
                     checkpoint_reading    what a file holds, without running code from it
                     checkpoint_layouts    how each of them names its tensors
                     network, fast_swin    patch merging, the network on its device, and what makes it fast
    loss             loss                  weights of the classes, ignored voxels; DiceCELoss is in the notebook
                     supervision           a loss on coarser levels of the decoder as well
                     averaging             averaged weights
                     calibration           a head with which organs have the right volume
    hardware         devices               GPU or CPU, precision, processes that train together
    the run          run_folder            state, metrics, weights; resuming after a stop
    results          inference             sliding window over a case
                     resampling            back to the scan's own grid
                     segmentation          any folder of scans, with trained weights
                     scans                 the scans of that folder
                     results_folder        what the folder of the results has already
                     dicom_seg             segmentation objects for viewers and archives
                     bundle                a MONAI bundle of a trained model, which plain MONAI runs
                     metrics, evaluation   Dice and distances; scores of cases
                     plots, colours        figures; the colour of each organ
                     viewer                scans to scroll through in the notebook; optional
    pre-training     pretraining           views of unlabelled volumes, and the tasks
    below all        files, tables         files written completely or not at all; tables to show
                     errors                errors that show as one message without a traceback

The loss function, the optimizer and the training loop are in the notebooks themselves.
"""

# ruff: noqa: F401

from swinunetr import loss as losses
from swinunetr import plots
from swinunetr.averaging import average_weights
from swinunetr.batches import (
    augmentation,
    next_case,
    place_cases,
    training_batch,
    training_batches,
    without_metadata,
)
from swinunetr.calibration import calibrated
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
from swinunetr.inference import segment_case, segment_cases
from swinunetr.loss import class_weights, skip_ignored
from swinunetr.metrics import confusion_matrix, dice_per_organ, mean_dice, organ_scores
from swinunetr.network import describe_speed, place_network
from swinunetr.phantoms import write_phantoms, write_unlabelled_phantoms
from swinunetr.preprocessing import MOST_CENTRES, intensity_window, prepare_cases, preprocessing, require_organs
from swinunetr.pretraining import (
    PretrainingNetwork,
    evaluate_tasks,
    pretraining_batch,
    pretraining_batches,
    task_losses,
)
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
from swinunetr.run_folder import RunFolder, require_finite
from swinunetr.settings import choose_recipe, read_parameters, run_settings, trained_recipe
from swinunetr.supervision import DeepSupervision
from swinunetr.threads import read_ahead

made_by = training_note  # its name before, which other projects import
