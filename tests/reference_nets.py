"""Well-known networks and blocks, written as they are in torchvision, timm and nanoGPT, for tracing what people use.

Inputs of attention are [batch, tokens, width].
"""

# mypy: disable-error-code="no-any-return"

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _norm(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int = 0, groups: int = 1
) -> list[nn.Module]:
    layer = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, groups=groups, bias=False)
    return [layer, nn.BatchNorm2d(outputs)]


def _initialised(model: nn.Module) -> nn.Module:
    """As torchvision draws its convolutional networks; with torch's own start, deep ones answer next to nothing."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; one ReLU module called twice."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _norm(inputs, outputs, 3, stride=stride, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = _norm(outputs, outputs, 3, padding=1)
        changes = stride != 1 or inputs != outputs
        self.downsample = nn.Sequential(*_norm(inputs, outputs, 1, stride=stride)) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """ResNet with basic blocks, two a stage."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = self._stage(width, width, 1)
        self.layer2 = self._stage(width, 2 * width, 2)
        self.layer3 = self._stage(2 * width, 4 * width, 2)
        self.layer4 = self._stage(4 * width, 8 * width, 2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8 * width, classes)

    @staticmethod
    def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        return nn.Sequential(BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = torch.flatten(self.avgpool(x), 1)
        return self.fc(x)


def resnet18(width: int = 64, classes: int = 10) -> nn.Module:
    """ResNet-18 for [batch, 3, 32, 32] or larger."""
    return _initialised(ResNet(width, classes))


def vgg16(classes: int = 10, *, batch_norm: bool = True, width: int = 64) -> nn.Module:
    """VGG-16 for [batch, 3, 32, 32]: thirteen convolutions and one linear map."""
    features: list[nn.Module] = []
    channels = 3
    for factor, layers in ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3)):
        for _ in range(layers):
            features.append(nn.Conv2d(channels, factor * width, kernel_size=3, padding=1))
            channels = factor * width
            features += [nn.BatchNorm2d(channels)] if batch_norm else []
            features.append(nn.ReLU(inplace=True))
        features.append(nn.MaxPool2d(kernel_size=2, stride=2))
    parts = {"features": nn.Sequential(*features), "flatten": nn.Flatten(), "classifier": nn.Linear(channels, classes)}
    model = nn.Sequential()
    for name, part in parts.items():
        model.add_module(name, part)
    return _initialised(model)


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution and projection, with a shortcut where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        widen = [*_norm(inputs, hidden, 1), nn.ReLU6(inplace=True)] if expansion != 1 else []
        depthwise = [*_norm(hidden, hidden, 3, stride=stride, padding=1, groups=hidden), nn.ReLU6(inplace=True)]
        self.conv = nn.Sequential(*widen, *depthwise, *_norm(hidden, outputs, 1))
        self.use_res_connect = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 with few stages: (expansion, channels, blocks, stride) each."""

    def __init__(self, stages: list[tuple[int, int, int, int]], classes: int) -> None:
        super().__init__()
        channels = 2 * stages[0][1]
        features = [nn.Sequential(*_norm(3, channels, 3, stride=2, padding=1), nn.ReLU6(inplace=True))]
        for expansion, outputs, blocks, stride in stages:
            for index in range(blocks):
                block = InvertedResidual(channels, outputs, 1 if index else stride, expansion)
                features.append(block)  # type: ignore[arg-type]
                channels = outputs
        last = 4 * channels
        features.append(nn.Sequential(*_norm(channels, last, 1), nn.ReLU6(inplace=True)))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(torch.flatten(x, 1))


def mobilenet_v2(classes: int = 10, *, width: int = 8) -> nn.Module:
    """A small MobileNetV2 for [batch, 3, 32, 32]."""
    stages = [(1, width, 1, 1), (6, 3 * width // 2, 2, 2), (6, 2 * width, 3, 2), (6, 4 * width, 2, 1)]
    return _initialised(MobileNetV2(stages, classes))


class SqueezeExcite(nn.Module):
    """Channels weighed by what all positions hold on average."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze, self.excite = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.sigmoid(self.excite(F.relu(self.squeeze(self.pool(x)))))
        return x * scale


class Mbconv(nn.Module):
    """Inverted residual with depthwise convolution and squeeze-excite (EfficientNet)."""

    def __init__(self, channels: int, expanded: int, squeezed: int) -> None:
        super().__init__()
        self.expand, self.norm1 = nn.Conv2d(channels, expanded, 1, bias=False), nn.BatchNorm2d(expanded)
        self.depthwise = nn.Conv2d(expanded, expanded, 3, padding=1, groups=expanded, bias=False)
        self.norm2, self.excite = nn.BatchNorm2d(expanded), SqueezeExcite(expanded, squeezed)
        self.project, self.norm3 = nn.Conv2d(expanded, channels, 1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.norm1(self.expand(x)))
        y = self.excite(F.silu(self.norm2(self.depthwise(y))))
        return x + self.norm3(self.project(y))


class EncoderBlock(nn.Module):
    """Self attention and a perceptron, each behind a normalisation and beside a shortcut."""

    def __init__(self, width: int, heads: int, mlp: int, dropout: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=1e-6)
        self.self_attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.ln_2 = nn.LayerNorm(width, eps=1e-6)
        layers = (nn.Linear(width, mlp), nn.GELU(), nn.Dropout(dropout), nn.Linear(mlp, width), nn.Dropout(dropout))
        self.mlp = nn.Sequential(*layers)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (as in torchvision)
        x = self.ln_1(input)
        x, _ = self.self_attention(x, x, x, need_weights=False)
        x = self.dropout(x)
        x = x + input
        y = self.ln_2(x)
        y = self.mlp(y)
        return x + y


class Encoder(nn.Module):
    """Positions, blocks and a last normalisation."""

    def __init__(self, tokens: int, depth: int, width: int, heads: int, mlp: int, dropout: float) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.empty(1, tokens, width).normal_(std=0.02))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.Sequential(*(EncoderBlock(width, heads, mlp, dropout) for _ in range(depth)))
        self.ln = nn.LayerNorm(width, eps=1e-6)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (as in torchvision)
        input = input + self.pos_embedding  # noqa: A001
        return self.ln(self.layers(self.dropout(input)))


class VisionTransformer(nn.Module):
    """Patches as tokens, a class token ahead of them, an encoder and a head."""

    def __init__(self, image: int, patch: int, depth: int, width: int, heads: int, mlp: int, classes: int) -> None:
        super().__init__()
        self.side, self.width = image // patch, width
        self.conv_proj = nn.Conv2d(3, width, kernel_size=patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.encoder = Encoder(self.side**2 + 1, depth, width, heads, mlp, dropout=0.0)
        self.heads = nn.Sequential()
        self.heads.add_module("head", nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        x = self.conv_proj(x)
        x = x.reshape(n, self.width, self.side * self.side)
        x = x.permute(0, 2, 1)
        batch_class_token = self.class_token.expand(n, -1, -1)
        x = torch.cat([batch_class_token, x], dim=1)
        x = self.encoder(x)
        x = x[:, 0]
        return self.heads(x)


def vit(
    *,
    image: int = 32,
    patch: int = 8,
    depth: int = 4,
    width: int = 64,
    heads: int = 4,
    mlp: int = 128,
    classes: int = 10,
) -> nn.Module:
    """Vision transformer for [batch, 3, image, image]."""
    return VisionTransformer(image, patch, depth, width, heads, mlp, classes)


class SelfAttention(nn.Module):
    """``nn.MultiheadAttention`` of tokens with themselves."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Attention(nn.Module):
    """Attention step by step; a head's keys have 4 entries, its values 5."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k = nn.Linear(width, 4 * heads), nn.Linear(width, 4 * heads)
        self.v, self.out = nn.Linear(width, 5 * heads), nn.Linear(5 * heads, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens = x.shape[0], x.shape[1]
        q = self.q(x).view(n, tokens, self.heads, 4).transpose(1, 2)
        k = self.k(x).view(n, tokens, self.heads, 4).transpose(1, 2)
        v = self.v(x).view(n, tokens, self.heads, 5).transpose(1, 2)
        weights = F.softmax(torch.matmul(q, k.transpose(-2, -1)) / 2, dim=-1)
        return self.out(torch.matmul(weights, v).transpose(1, 2).contiguous().view(n, tokens, 5 * self.heads))


class Packed(nn.Module):
    """Attention as in timm: one linear map for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.heads, self.size).permute(2, 0, 3, 1, 4).unbind(0)
        weights = ((q * self.size**-0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(B, N, C))


class Fused(nn.Module):
    """Attention as in nanoGPT: ``chunk`` and ``scaled_dot_product_attention``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.size()
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q = q.view(B, N, self.heads, self.size).transpose(1, 2)
        k = k.view(B, N, self.heads, self.size).transpose(1, 2)
        v = v.view(B, N, self.heads, self.size).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).contiguous().view(B, N, C))


class Transformer(nn.Module):
    """Pre-norm block around an attention."""

    def __init__(self, attention: nn.Module, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.attention = nn.LayerNorm(width), nn.LayerNorm(width), attention
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ClassToken(nn.Module):
    """A token of the network's own ahead of the others, positions, and attention to bring something into it."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos = nn.Parameter(torch.randn(1, tokens + 1, width))
        self.attention = SelfAttention(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        token = self.token.expand(x.shape[0], -1, -1)
        x = torch.cat([token, x], dim=1) + self.pos
        return x + self.attention(x)
