"""Linear layers of the same weight, kept by several libraries in 32, 8 and 4 bits."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

D_IN, D_OUT = 64, 96


def plain(dtype=torch.float32, bias=True):
    torch.manual_seed(0)
    return nn.Linear(D_IN, D_OUT, bias).to(dtype)


def of_gpt2(dtype=torch.float32):
    torch.manual_seed(0)
    return Conv1D(D_OUT, D_IN).to(dtype)


def in_4_bits(dtype=torch.float32, bias=True):
    nn4 = pytest.importorskip("bitsandbytes").nn
    layer = nn4.Linear4bit(D_IN, D_OUT, bias, quant_type="nf4").to(dtype)
    layer.load_state_dict(plain(dtype, bias).state_dict())
    return layer.to("cpu").requires_grad_(False)


def in_8_bits(dtype=torch.float32, bias=True):
    nn8 = pytest.importorskip("bitsandbytes").nn
    layer = nn8.Linear8bitLt(D_IN, D_OUT, bias, has_fp16_weights=False).to(dtype)
    layer.load_state_dict(plain(dtype, bias).state_dict())
    return layer.to("cpu")


def by_torchao(name, **settings):
    def make(dtype=torch.float32, bias=True):
        torchao = pytest.importorskip("torchao.quantization")
        model = nn.Sequential(plain(dtype, bias))
        torchao.quantize_(model, getattr(torchao, name)(**settings))
        return model[0]

    return make


EXACT = {"Linear": plain, "Conv1D": of_gpt2}
QUANTISED = {
    "bitsandbytes 4": in_4_bits,
    "bitsandbytes 8": in_8_bits,
    "torchao int8": by_torchao("Int8WeightOnlyConfig"),
    "torchao int4": by_torchao("IntxWeightOnlyConfig", weight_dtype=torch.int4),
}
