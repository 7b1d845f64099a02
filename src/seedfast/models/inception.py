"""Inception-v3 as the Fréchet inception distance uses it (Szegedy et al. 2016; weights of 2015-12-05).

The names of modules are those of the published PyTorch conversion, so that its state dict loads as it is. The network
differs from the one for classification in its pooling (see `_average` and `Mixed7`), and in its weights.

Shapes: B batch, C channels, S height and width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIZE = 299
"""Height and width of the input."""
FEATURES = 2048
_LOGITS = 1008


class Convolution(nn.Module):
    """A convolution without padding or bias, BatchNorm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, S, S] to [B, outputs, S', S']."""
        return F.relu(self.bn(self.conv(x)))


def _same(inputs: int, outputs: int, kernel: int | tuple[int, int] = 1) -> Convolution:
    """A convolution that keeps height and width."""
    part = Convolution(inputs, outputs, kernel)
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    part.conv.padding = (height // 2, width // 2)
    return part


def _average(x: Tensor) -> Tensor:
    """The mean of 3 × 3 neighbours, of those inside of the image, as TensorFlow averages."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class Mixed5(nn.Module):
    """Branches of 1 × 1, 5 × 5 and two 3 × 3 convolutions, and of pooling."""

    def __init__(self, inputs: int, pool: int) -> None:
        super().__init__()
        self.branch1x1 = _same(inputs, 64)
        self.branch5x5_1, self.branch5x5_2 = _same(inputs, 48), _same(48, 64, 5)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = _same(inputs, 64), _same(64, 96, 3)
        self.branch3x3dbl_3 = _same(96, 96, 3)
        self.branch_pool = _same(inputs, pool)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, S, S] to [B, 224 + pool, S, S]."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        five = self.branch5x5_2(self.branch5x5_1(x))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(_average(x))], dim=1)


class Reduce6(nn.Module):
    """Half the size: a 3 × 3 convolution, a stack that ends with one, and pooling."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = Convolution(inputs, 384, 3, stride=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = _same(inputs, 64), _same(64, 96, 3)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, S, S] to [B, 480 + inputs, S', S']."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], dim=1)


class Mixed6(nn.Module):
    """Branches of 1 × 1, of one and of two factorised 7 × 7 convolutions, and of pooling."""

    def __init__(self, width: int) -> None:
        super().__init__()
        row, column = (1, 7), (7, 1)
        self.branch1x1 = _same(768, 192)
        self.branch7x7_1, self.branch7x7_2 = _same(768, width), _same(width, width, row)
        self.branch7x7_3 = _same(width, 192, column)
        self.branch7x7dbl_1, self.branch7x7dbl_2 = _same(768, width), _same(width, width, column)
        self.branch7x7dbl_3, self.branch7x7dbl_4 = _same(width, width, row), _same(width, width, column)
        self.branch7x7dbl_5 = _same(width, 192, row)
        self.branch_pool = _same(768, 192)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 768, S, S] to the same."""
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(_average(x))], dim=1)


class Reduce7(nn.Module):
    """Half the size: a 3 × 3 convolution, a factorised 7 × 7 one before another, and pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = _same(768, 192), Convolution(192, 320, 3, stride=2)
        self.branch7x7x3_1, self.branch7x7x3_2 = _same(768, 192), _same(192, 192, (1, 7))
        self.branch7x7x3_3, self.branch7x7x3_4 = _same(192, 192, (7, 1)), Convolution(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 768, S, S] to [B, 1280, S', S']."""
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, F.max_pool2d(x, 3, stride=2)], dim=1)


class Mixed7(nn.Module):
    """Branches whose last convolutions are a row and a column beside each other, and of pooling.

    maximum: whether the pooling takes the maximum, as only the last block of the FID's network does.
    """

    def __init__(self, inputs: int, *, maximum: bool) -> None:
        super().__init__()
        self.maximum = maximum
        row, column = (1, 3), (3, 1)
        self.branch1x1 = _same(inputs, 320)
        self.branch3x3_1 = _same(inputs, 384)
        self.branch3x3_2a, self.branch3x3_2b = _same(384, 384, row), _same(384, 384, column)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = _same(inputs, 448), _same(448, 384, 3)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = _same(384, 384, row), _same(384, 384, column)
        self.branch_pool = _same(inputs, 192)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, S, S] to [B, 2048, S, S]."""
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.maximum else _average(x)
        parts = [self.branch1x1(x), self.branch3x3_2a(three), self.branch3x3_2b(three)]
        parts += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), self.branch_pool(pooled)]
        return torch.cat(parts, dim=1)


class Inception(nn.Module):
    """Inception-v3 up to its last pooling (pool3); the classifier is there to check that weights are complete."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = _same(32, 64, 3)
        self.Conv2d_3b_1x1 = _same(64, 80)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = Mixed5(192, 32), Mixed5(256, 64), Mixed5(288, 64)
        self.Mixed_6a = Reduce6(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (Mixed6(width) for width in (128, 160, 160, 192))
        self.Mixed_7a = Reduce7()
        self.Mixed_7b, self.Mixed_7c = Mixed7(1280, maximum=False), Mixed7(FEATURES, maximum=True)
        self.fc = nn.Linear(FEATURES, _LOGITS)

    def forward(self, x_BCSS: Tensor) -> Tensor:
        """pool3, [B, 2048], of images of 299 × 299 pixels, scaled as `preprocessed` does."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x_BCSS)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, stride=2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        pooled: Tensor = x.mean(dim=(2, 3))
        return pooled


def preprocessed(images_BCSS: Tensor) -> Tensor:
    """uint8 images [B, 1 or 3, S, S] as the network takes them, float32 [B, 3, 299, 299]; grey ones become colour.

    Values are (x - 128) / 128, as in the published graph.
    """
    rgb = images_BCSS.float().expand(-1, 3, -1, -1)
    return (resized(resized(rgb).mT).mT - 128) / 128


def resized(x: Tensor) -> Tensor:
    """x [..., S] linearly interpolated to [..., 299] as TensorFlow 1 does it, and hence the published FID.

    Point i lies at i · S / 299: corners are aligned at the left only, and nothing is averaged when an image shrinks.
    Parmar et al. 2022 ("clean-fid") measure how much this differs from a proper filter.
    """
    size = x.shape[-1]
    places = torch.arange(SIZE, device=x.device, dtype=torch.float32) * (size / SIZE)
    left = places.long()
    right = (left + 1).clamp(max=size - 1)
    return torch.lerp(x[..., left], x[..., right], places - left)
