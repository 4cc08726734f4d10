"""A small causal transformer over characters. It learns sums in words, made here, or `--set text=book.txt`."""

import random
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from lambdaml import Job


def sums(lines: int = 5000) -> str:
    words = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen".split()
    draw = random.Random(0).choices(range(8), k=2 * lines)
    return "".join(f"{words[a]} and {words[b]} is {words[a + b]}.\n" for a, b in zip(draw[::2], draw[1::2]))


class Transformer(nn.Module):
    def __init__(self, context: int) -> None:
        super().__init__()
        self.token, self.place, self.head = nn.Embedding(256, 64), nn.Embedding(context, 64), nn.Linear(64, 256)
        layer = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.1, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, nn.LayerNorm(64), enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], x.device)
        return self.head(self.body(self.token(x) + self.place.weight, mask, is_causal=True))


class CharLM(Job):
    batch_size, clip_norm = 16, 1.0

    def __init__(self, text: str = "", lr: float = 5e-3, context: int = 64, decay_steps: int = 300) -> None:
        self.text, self.lr, self.context, self.decay_steps = text, lr, context, decay_steps

    @cached_property
    def rows(self) -> Tensor:  # rows have context + 1 characters; the last tenth is the test set
        text = Path(self.text).read_bytes() if self.text else sums().encode()
        return torch.tensor(list(text)).unfold(0, self.context + 1, self.context).contiguous()

    def model(self) -> nn.Module:
        return Transformer(self.context)

    def dataset(self) -> torch.utils.data.Dataset[tuple[Tensor, ...]]:
        return torch.utils.data.TensorDataset(self.rows[: -(len(self.rows) // 10)])

    def loss(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0][:, :-1]).flatten(0, 1), batch[0][:, 1:].flatten())

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=self.lr)

    def scheduler(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.decay_steps)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        loss = self.loss(model, [self.rows[-(len(self.rows) // 10) :]])
        return {"loss": loss.item(), "perplexity": loss.exp().item()}
