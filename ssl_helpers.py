"""What both notebooks import, and a map of the package `swinunetr`, where it is.

Data flow in one direction. A JSON file and a folder become a `Dataset` of file names, and `check_dataset` reads all of
them. `prepare_cases` turns each case, once, into small tensors on the training grid; `training_batch` cuts the crops of
one step out of them. The network that belongs to the checkpoint is built, loaded and placed on the device. `RunFolder`
writes the results of the run. At the end `segment_cases` segments each scan and resamples the result to its own grid.
The loss function, the optimizer and the training loop are in the notebooks themselves.

A folder imports from those above it in this list, never from those below; data/ and network/ do not need each other.

    swinunetr/   environment             packages that are missing, and their installation
                 errors, words, tables   messages without a traceback, lists cut short in them; tables
                 files                   files written whole or not at all
                 machine, hardware       cores and memory; GPU or CPU, precision, processes that train together
                 threads                 items made at the same time, or while a GPU computes
                 recipe, fields          settings of a run; types, bounds and meaning of settings and parameters
    data/        lists, folders          cases of a JSON, and files of a folder
                 label_maps              partial labels, and label files that number organs otherwise
                 source, collect         cases of a run; a list of folders as they were downloaded
                 spacing                 median spacing of scans, as a training grid
                 organs                  colour and DICOM code of each organ
                 checks                  all problems of headers and voxels, Hounsfield units among them, in one table
                 geometry, modality      a NIfTI file and its one affine; whether a scan is CT
                 dicom                   DICOM series: found, and their voxels
                 transforms, nifti_reader   of a case, from its files to the training grid
                 preprocessing, cache    cases on the training grid, and on disk
                 download                public data sets by name
                 phantoms                synthetic CT where there are no data; varied ones, to measure on
    network/     layouts                 how each public checkpoint names its tensors
                 checkpoints             files of weights: found, read, recognised, loaded, saved
                 merging                 its two orders of patch merging
                 placement, fast         the network on its device, and what makes it fast
                 supervision             a loss on coarser levels of the decoder as well
    results/     inference, resampling   sliding window over a case, and back to the scan's own grid
                 metrics, evaluation     Dice and distances; scores of cases
                 grids                   what three training grids cost, and what they lose
                 report                  tables of the scores, with notes
                 plots, viewer           figures; scans to scroll through in the notebook
    training/    parameters, settings    parameters of a notebook as options and recipe; what identifies a run
                 run_folder              what a run writes, how a folder becomes its own, and how it resumes
                 stopping                what stops it
                 batches, augmentation   crops of one step, and their random changes
                 loss, averaging         weights of the classes, ignored voxels; averaged weights
                 calibration             a head with which organs have the right volume
                 pretraining             views of unlabelled volumes, and the tasks
    scans/       segmentation, finding   any folder of scans, with trained weights
                 writers                 what is written for each scan: objects, pictures, uncertainty
                 results_folder          what the folder of the results has already
                 dicom_seg               DICOM segmentation objects
                 bundle                  a MONAI bundle of a trained model, which plain MONAI runs
"""

# ruff: noqa: F401

from swinunetr.data.checks import check_dataset
from swinunetr.data.checks.sides import check_sides
from swinunetr.data.download import fetch
from swinunetr.data.folders import SYNAPSE_FOLDERS, case_name, find_volumes, locate
from swinunetr.data.lists import NOT_A_LIST, SECTIONS, Dataset, read_dataset, read_json, read_unlabelled
from swinunetr.data.organs import save_label_names
from swinunetr.data.phantoms import write_phantoms, write_unlabelled_phantoms
from swinunetr.data.preprocessing import MOST_CENTRES, prepare_cases, require_organs
from swinunetr.data.source import find_data
from swinunetr.data.transforms import case_transforms, intensity_window, preprocessing
from swinunetr.errors import InputError
from swinunetr.files import claim_folder, replacing
from swinunetr.hardware import find_hardware, parallel, versions
from swinunetr.network.checkpoints import (
    LoadReport,
    build_swinunetr,
    compare_responses,
    encoder_response,
    find_checkpoint,
    load_pretrained,
    training_note,
)
from swinunetr.network.placement import describe_speed, place_network
from swinunetr.network.supervision import DeepSupervision
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
from swinunetr.results import plots
from swinunetr.results.evaluation import (
    evaluate,
    most_changed,
    resolution_ceiling,
    score_case,
    summarise,
    validate,
    worst_and_best,
)
from swinunetr.results.grids import compare_grids
from swinunetr.results.inference import segment_cases, sliding_window
from swinunetr.results.metrics import confusion_matrix, dice_per_organ, mean_dice, organ_scores
from swinunetr.results.report import describe_scores, describe_worst_cases
from swinunetr.threads import read_ahead
from swinunetr.training import loss as losses
from swinunetr.training.augmentation import augmentation
from swinunetr.training.averaging import average_weights
from swinunetr.training.batches import next_case, place_cases, training_batch, training_batches, without_metadata
from swinunetr.training.calibration import calibrated
from swinunetr.training.loss import class_weights, skip_ignored
from swinunetr.training.parameters import PARAMETERS, PRETRAINING_PARAMETERS, choose_recipe, read_parameters
from swinunetr.training.pretraining import (
    PretrainingNetwork,
    evaluate_tasks,
    pretraining_batch,
    pretraining_batches,
    task_losses,
)
from swinunetr.training.run_folder import RunFolder
from swinunetr.training.settings import run_settings, trained_recipe
from swinunetr.training.stopping import require_finite

made_by = training_note  # its name before, which other projects import
