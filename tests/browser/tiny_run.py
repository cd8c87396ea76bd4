"""A training run of about 4 ms a step, with all that a panel shows, for notebooks in tests."""

import time

import torch
from torch.nn import functional as F

from finetune_lessons.lab.training.run import Step

torch.set_num_threads(1)


class TinyRun:
    device, precision = torch.device("cpu"), "fp32"

    def __init__(self, lr, steps, seed):
        self.generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(512, 256, generator=self.generator)
        self.y = (self.x[:, :8].sum(1) > 0).long()
        self.model = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 2))
        with torch.no_grad():
            for p in self.model.parameters():
                p.copy_(torch.randn(p.shape, generator=self.generator) * 0.05)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr)
        self.steps, self.index = steps, 0

    def __len__(self):
        return self.steps

    def __iter__(self):
        return self

    def __next__(self):
        if self.index >= self.steps:
            raise StopIteration
        start = time.perf_counter()
        rows = torch.randint(512, (64,), generator=self.generator)
        loss = F.cross_entropy(self.model(self.x[rows]), self.y[rows])
        if not loss < 1e6:
            raise ValueError(f"the loss is not finite at step {self.index} (lr={self.optimizer.defaults['lr']:g})")
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1e9)
        self.optimizer.step()
        self.index += 1
        every = max(self.steps // 3, 1)
        metrics = self.evaluate() if self.index % every == 0 else {}
        parts = {"head": 0.7 * loss.item(), "body": 0.3 * loss.item()}
        lr, epoch, seconds = self.optimizer.defaults["lr"], (self.index - 1) // every, time.perf_counter() - start
        return Step(self.index - 1, epoch, loss.item(), parts, lr, float(norm), 64 * 20, seconds, metrics)

    def evaluate(self):
        with torch.no_grad():
            logits = self.model(self.x)
        return {
            "accuracy": (logits.argmax(1) == self.y).float().mean().item(),
            "loss": F.cross_entropy(logits, self.y).item(),
        }

    def finish(self):
        for _ in self:
            pass
        return self


def make_run(lr=1e-2, steps=60, seed=0):
    return TinyRun(lr, steps, seed)
