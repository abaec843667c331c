"""The folder of a run: what it holds, how it becomes that of a run, and from what the run resumes."""

from swinunetr.training.run_folder.folder import RunFolder

__all__ = ["RunFolder"]
