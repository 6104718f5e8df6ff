"""StyleTransfer in the workers of a DataLoader, with the shipped model."""

import pickle

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from nucstyle.augment.style import StyleTransfer
from nucstyle.workflows.load import load_style


class Fields(Dataset):
    """Eight fields, restyled by their number."""

    def __init__(self, transfer):
        self.transfer = transfer

    def __len__(self):
        return 8

    def __getitem__(self, index):
        image = torch.zeros(3, 48, 48)
        image[:, 8:20, 8 + index : 30] = 0.6
        return self.transfer(image, seed=index)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_goes_into_a_pickle_and_comes_out_the_same(precision):
    transfer = StyleTransfer(load_style("dsb2018", device="cpu", precision=precision), p=1.0)
    again = pickle.loads(pickle.dumps(transfer))
    image = Fields(transfer)[0]
    assert torch.equal(Fields(again)[0], image)
    assert float(image.std()) > 0.02


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_give_what_the_main_process_gives_however_they_start(start):
    fields = Fields(StyleTransfer(load_style("dsb2018", device="cpu", precision="bf16"), p=0.7))
    alone = list(DataLoader(fields, batch_size=2))
    for workers in (1, 2):
        loader = DataLoader(fields, batch_size=2, num_workers=workers, multiprocessing_context=start)
        for one, other in zip(alone, loader, strict=True):
            torch.testing.assert_close(one, other, atol=0.02, rtol=0)  # a worker computes with one thread
