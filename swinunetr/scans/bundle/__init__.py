"""A MONAI bundle of a trained model: a folder that plain MONAI runs without this project.

`writing` makes the folder, and `texts` fills the files of `templates/`.

Source: https://docs.monai.io/en/stable/mb_specification.html
"""

from swinunetr.scans.bundle.writing import write_bundle

__all__ = ["write_bundle"]
