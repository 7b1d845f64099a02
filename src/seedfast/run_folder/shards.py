"""Checkpoints that several processes write at once, each its own rows, by PyTorch's distributed checkpointing (DCP).

A group of tensors is a folder of safetensors files, one for each process, in the format of DCP's Hugging Face storage:
the header of a file names the first row of each of its tensors. Nothing is pickled, and
`torch.distributed.checkpoint.load` with a `HuggingFaceStorageReader` reads such a folder as well as `tensors.py` does.
"""

from pathlib import Path

from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_saver import save

from seedfast.run_folder.tensors import Groups


def save_shards(groups: Groups, folder: Path) -> str | None:
    """Write the rows of each tensor that this process holds; a tensor that all hold is written by one of them.

    All processes call it together with the same groups and names. Returns why it failed, on at least one process.
    """
    problem = None
    for group, tensors in groups.items():
        writer = HuggingFaceStorageWriter(str(folder / group), save_distributed=True)
        try:
            (folder / group).mkdir(exist_ok=True)
            save(dict(tensors), storage_writer=writer)
        except (OSError, SafetensorError) as error:
            problem = problem or str(error)
        except CheckpointException as error:  # of any process, raised on all
            problem = problem or "; ".join(str(reason) for reason, _ in error.failures.values())
    return problem
