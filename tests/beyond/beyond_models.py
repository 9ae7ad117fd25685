"""Networks beyond classification and the digits that they learn from; what a server opens by name is at the end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import detection, segmentation

from whylight.models import Companion, OpenedModel, Transform

SIZE = (16, 32)
WORDS = ("what", "digit", "is", "on", "the", "left", "right", "?")
LEFT, RIGHT = WORDS.index("left"), WORDS.index("right")
START, END = 10, 11
CAPTION = (START, *(0,) * 2)

FULLY_CONVOLUTIONAL = {
    "name": "segmenter",
    "source": "python:beyond_models:segmenter",
    "output": "out",
}
DETECTOR = {"name": "detector", "source": "python:beyond_models:detector", "last_spatial": "backbone.body.layer4"}


def pairs(count: int, *, held_out: bool, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures of two digits side by side, uint8 `[count, 16, 32, 3]`, and the digits `[count, 2]`."""
    digits = load_digits()
    chosen = np.arange(len(digits.images)) % 4 == 0
    images, labels = digits.images[chosen == held_out], digits.target[chosen == held_out]
    draw = np.random.default_rng(seed)
    picked = draw.integers(0, len(images), (count, 2))
    canvas = draw.integers(0, 40, (count, *SIZE)).astype(np.float32)
    for n in range(count):
        for side in range(2):
            glyph = images[picked[n, side]].repeat(3, 0).repeat(3, 1)[::2, ::2] * (255 / 16)
            top, left = draw.integers(1, 4), 16 * side + draw.integers(1, 4)
            part = canvas[n, top : top + 12, left : left + 12]
            np.maximum(part, glyph, out=part)
    return np.repeat(canvas.astype(np.uint8)[..., None], 3, axis=3), labels[picked]


def inputs_of(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


class Encoder(nn.Module):
    """Convolutions down to 4 x 8, told where they are by two further channels."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 24, 5, padding=2, stride=2)
        self.two = nn.Conv2d(24, 32, 3, padding=1)
        self.three = nn.Conv2d(32, 64, 3, padding=1, stride=2)
        self.last = nn.Conv2d(66, 64, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.three(self.relu(self.two(self.relu(self.one(x - 0.3))))))
        rows = torch.linspace(-1, 1, x.shape[2], dtype=x.dtype, device=x.device)[None, None, :, None]
        columns = torch.linspace(-1, 1, x.shape[3], dtype=x.dtype, device=x.device)[None, None, None, :]
        place = torch.cat((rows.expand(len(x), 1, *x.shape[2:]), columns.expand(len(x), 1, *x.shape[2:])), dim=1)
        return self.relu(self.last(torch.cat((x, place), dim=1)))


class Answerer(nn.Module):
    """Visual question answering: what the words of the question mean together decides where to look."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.words = nn.Embedding(len(WORDS), 32)
        self.query = nn.Linear(32, 64)
        self.answer = nn.Linear(64, 10)

    def forward(self, image: Tensor, question: Tensor) -> Tensor:
        features = self.encoder(image).flatten(2)
        meant = self.query(self.words(question).sum(dim=1, keepdim=True))
        looks = (meant @ features / 8).softmax(dim=2)
        return self.answer((looks @ features.transpose(1, 2))[:, 0])


class Captioner(nn.Module):
    """Encoder and decoder: each word of the prefix looks at the picture and gives the scores of the next, `[T, 12]`."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.words = nn.Embedding(12, 32)
        self.places = nn.Embedding(8, 32)
        self.query = nn.Linear(32, 64)
        self.next = nn.Linear(64, 12)

    def forward(self, image: Tensor, prefix: Tensor) -> Tensor:
        features = self.encoder(image).flatten(2)
        said = self.words(prefix) + self.places(torch.arange(prefix.shape[1], device=prefix.device))
        looks = (self.query(said) @ features / 8).softmax(dim=2)
        return self.next(looks @ features.transpose(1, 2))


def questions(sides: np.ndarray) -> Tensor:
    """Return "what digit is on the left?", or right, for each 0 or 1."""
    words = torch.tensor([WORDS.index(word) for word in ("what", "digit", "is", "on", "the", "left", "?")])
    asked = words.repeat(len(sides), 1)
    asked[:, 5] = torch.from_numpy(np.where(sides == 0, LEFT, RIGHT))
    return asked


def train_answerer(steps: int = 300) -> Answerer:
    torch.manual_seed(0)
    net = Answerer()
    images, digits = pairs(4000, held_out=False)
    pictures, draw = inputs_of(images), np.random.default_rng(1)
    optimiser = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=steps)
    for _ in range(steps):
        some, sides = draw.integers(0, len(images), 128), draw.integers(0, 2, 128)
        answers = torch.from_numpy(digits[some, sides]).long()
        loss = functional.cross_entropy(net(pictures[some], questions(sides)), answers)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return net.eval()


def train_captioner(steps: int = 300) -> Captioner:
    torch.manual_seed(0)
    net = Captioner()
    images, digits = pairs(4000, held_out=False)
    pictures, draw = inputs_of(images), np.random.default_rng(1)
    captions = np.concatenate([np.full((len(digits), 1), START), digits, np.full((len(digits), 1), END)], axis=1)
    words = torch.from_numpy(captions).long()
    optimiser = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=steps)
    for _ in range(steps):
        some = draw.integers(0, len(images), 128)
        scores = net(pictures[some], words[some, :-1])
        loss = functional.cross_entropy(scores.flatten(0, 1), words[some, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return net.eval()


def save(net: nn.Module, path: Path) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, path)
    return path


def answerer() -> OpenedModel:
    """Open an untrained Answerer; the operator's configuration names its weights."""
    question = Companion(shape=(7,), high=len(WORDS) - 1)
    labels = tuple(map(str, range(10)))
    return OpenedModel(Answerer(), Transform.plain(SIZE), labels, {"question": question})


def captioner() -> OpenedModel:
    """Open an untrained Captioner; a prefix has one word or more."""
    prefix = Companion(shape=(-1,), high=END, example=list(CAPTION))
    labels = (*map(str, range(10)), "<start>", "<end>")
    return OpenedModel(Captioner(), Transform.plain(SIZE), labels, {"prefix": prefix})


def segmenter() -> OpenedModel:
    """Make a fully convolutional network of seeded weights, for small pictures."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)
    return OpenedModel(net, Transform.plain((64, 96)))


def detector() -> OpenedModel:
    """Make a Faster R-CNN of seeded weights, for small pictures, that reports even what it is not sure of."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = detection.fasterrcnn_resnet50_fpn(
            weights=None,
            weights_backbone=None,
            num_classes=4,
            min_size=64,
            max_size=96,
            box_score_thresh=0.0,
            box_detections_per_img=12,
            rpn_post_nms_top_n_test=40,
        )
    return OpenedModel(net, Transform.plain((64, 96)))
