"""A data set in the workers of a torch DataLoader: what goes wrong there is said, and nothing hangs."""

import os
import signal
import time

import pytest
import torch
from torch.utils.data import DataLoader

from nucstyle.core.errors import ImageError
from nucstyle.data.dataset import Dataset, open_dataset

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # two workers on one core, too


def loader_of(dataset, collate_fn=list, **options):
    return DataLoader(dataset, batch_size=2, collate_fn=collate_fn, **options)


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_read_what_one_process_reads(write_pairs, start):
    dataset = open_dataset(write_pairs())
    alone = [sample for batch in loader_of(dataset) for sample in batch]
    for workers in (1, 2):
        loader = loader_of(dataset, num_workers=workers, multiprocessing_context=start)
        together = [sample for batch in loader for sample in batch]
        assert [sample.id for sample in together] == [sample.id for sample in alone]
        for one, other in zip(alone, together, strict=True):
            assert torch.equal(one.image, other.image)
            assert torch.equal(one.labels, other.labels)
            assert one.source == other.source


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_a_worker_cannot_use_is_named(write_pairs, workers):
    folder = write_pairs()
    (folder / "images/field-5.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"field-5\.png: not a PNG, .*\(the file is empty\)"):
        list(loader_of(open_dataset(folder), num_workers=workers))


class Deadly(Dataset):
    """The worker that reads the sixth image is killed, as by a system that is out of memory."""

    def __getitem__(self, index):
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def ids_of(samples):
    return [sample.id for sample in samples]


def test_a_worker_that_is_killed_ends_the_reading_soon(write_pairs):
    # Names come through a pipe. torch fetches a tensor over a socket of the worker, and raises from the handler of a
    # signal: caught in between, it leaves the socket open, or says no more than that the connection was reset.
    loader = loader_of(Deadly(open_dataset(write_pairs()).records), ids_of, num_workers=2)
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=r"worker \(pid\(s\) \d+\) exited|killed by signal"):
        list(loader)
    assert time.monotonic() - start < 30
