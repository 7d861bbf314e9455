"""Nets of the edge, written here: keyword spotting, segmentation, super-resolution, sequences, attention, detection."""
import torch
from torch import nn
from torch.nn import functional as F

from exporting import export


def conv(a, b, k=3, s=1, g=1, act=nn.ReLU):
    return nn.Sequential(nn.Conv2d(a, b, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(b), act())


class UNet(nn.Module):
    def __init__(self, up):
        super().__init__()
        self.down1, self.down2, self.mid = conv(3, 16), conv(16, 32), conv(32, 64)
        self.kind = up
        self.up2 = nn.ConvTranspose2d(64, 32, 2, 2) if up == "transposed" else conv(64, 32)
        self.up1 = nn.ConvTranspose2d(32, 16, 2, 2) if up == "transposed" else conv(32, 16)
        self.out2, self.out1, self.head = conv(64, 32), conv(32, 16), nn.Conv2d(16, 2, 1)

    def wider(self, layer, x):
        if self.kind == "transposed":
            return layer(x)
        align = None if self.kind == "nearest" else False
        return layer(F.interpolate(x, scale_factor=2, mode=self.kind, align_corners=align))

    def forward(self, x):
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.mid(F.max_pool2d(b, 2))
        b = self.out2(torch.cat([self.wider(self.up2, c), b], 1))
        return self.head(self.out1(torch.cat([self.wider(self.up1, b), a], 1)))


class DsCnn(nn.Sequential):
    """Depthwise-separable keyword spotting on 49 × 10 MFCCs."""
    def __init__(self, width=64):
        blocks = [m for _ in range(4) for m in (conv(width, width, g=width), conv(width, width, 1))]
        super().__init__(nn.Conv2d(1, width, (10, 4), 2, (5, 1), bias=False), nn.BatchNorm2d(width), nn.ReLU(), *blocks,
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 12))


class TcResNet(nn.Module):
    """Temporal convolutions in one dimension with residual blocks."""
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(40, 16, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv1d(a, b, 9, s, 4), nn.BatchNorm1d(b), nn.ReLU(), nn.Conv1d(b, b, 9, 1, 4), nn.BatchNorm1d(b))
                                    for a, b, s in ((16, 24, 2), (24, 24, 1), (24, 32, 2)))
        self.short = nn.ModuleList([nn.Conv1d(16, 24, 1, 2), nn.Identity(), nn.Conv1d(24, 32, 1, 2)])
        self.head = nn.Linear(32, 12)

    def forward(self, x):
        x = self.stem(x)
        for block, short in zip(self.blocks, self.short):
            x = F.relu(block(x) + short(x))
        return self.head(x.mean(2))


class Recurrent(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.front = nn.Sequential(conv(1, 16, s=2), conv(16, 32, s=2))
        self.cell, self.head = cell(32 * 4, 24, batch_first=True), nn.Linear(24, 10)

    def forward(self, x):
        x = self.front(x)
        x = x.permute(0, 3, 1, 2).flatten(2)
        return self.head(self.cell(x)[0][:, -1])


class Transformer(nn.Module):
    """Keyword transformer: PyTorch's own encoder layers."""
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(40, 32)
        self.position = nn.Parameter(torch.randn(1, 20, 32) * 0.1)
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=i == 1) for i in range(2))
        self.head = nn.Linear(32, 12)

    def forward(self, x):
        x = self.embed(x) + self.position
        for layer in self.layers:
            x = layer(x + 0)
        return self.head(x.mean(1))


class Squeeze(nn.Module):
    """Squeeze and excitation by linear layers, hard-swish outside, hard-sigmoid inside."""
    def __init__(self, c):
        super().__init__()
        self.a, self.b = nn.Linear(c, c // 4), nn.Linear(c // 4, c)

    def forward(self, x):
        n, c = x.shape[:2]
        gate = F.hardsigmoid(self.b(F.relu(self.a(x.mean((2, 3))))))
        return x * gate.view(n, c, 1, 1)


class Normalised(nn.Module):
    def __init__(self, norm, act):
        super().__init__()
        layer = lambda a, b: nn.Sequential(nn.Conv2d(a, b, 3, 1, 1), norm(b), act(b))
        self.a, self.b, self.c, self.head = layer(3, 16), layer(16, 16), layer(16, 32), nn.Linear(32, 10)

    def forward(self, x):
        x = self.a(x)
        return self.head(self.c(x + self.b(x)).mean((2, 3)))


class Style(nn.Module):
    """Style transfer: reflection pads, instance norms, an upsampling decoder."""
    def __init__(self):
        super().__init__()
        layer = lambda a, b, k, s: nn.Sequential(nn.ReflectionPad2d(k // 2), nn.Conv2d(a, b, k, s), nn.InstanceNorm2d(b, affine=True), nn.ReLU())
        self.down, self.res = nn.Sequential(layer(3, 16, 9, 1), layer(16, 32, 3, 2)), nn.Sequential(layer(32, 32, 3, 1), nn.Conv2d(32, 32, 3, 1, 1))
        self.up = nn.Sequential(nn.Upsample(scale_factor=2), layer(32, 16, 3, 1), nn.Conv2d(16, 3, 3, 1, 1))

    def forward(self, x):
        x = self.down(x)
        return torch.tanh(self.up(x + self.res(x)))


class Attentive(nn.Module):
    """CBAM: a gate of channels by average and maximum, then one of positions."""
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 16), conv(16, 32), nn.Linear(32, 10)
        self.mlp, self.spatial = nn.Sequential(nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 16)), nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x):
        x = self.a(x)
        gate = torch.sigmoid(self.mlp(F.adaptive_avg_pool2d(x, 1).flatten(1)) + self.mlp(F.adaptive_max_pool2d(x, 1).flatten(1)))
        x = x * gate[:, :, None, None]
        x = x * torch.sigmoid(self.spatial(torch.cat([x.mean(1, True), x.amax(1, True)], 1)))
        return self.head(self.b(x).mean((2, 3)))


class Detector(nn.Module):
    """Heads as SSD's: permuted, flattened and joined over two scales; YOLO's grid decoded by slices."""
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Sequential(conv(3, 16, s=2), conv(16, 32, s=2)), conv(32, 64, s=2)
        self.heads = nn.ModuleList([nn.Conv2d(32, 18, 1), nn.Conv2d(64, 18, 1)])

    def forward(self, x):
        a = self.a(x)
        b = self.b(a)
        flat = [h(f).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 9) for h, f in zip(self.heads, (a, b))]
        y = torch.cat(flat, 1)
        return torch.cat([torch.sigmoid(y[..., :2]) * 2 - 0.5, torch.exp(y[..., 2:4]), torch.sigmoid(y[..., 4:])], -1)


class Gated(nn.Module):
    """Chunks: gated linear units, a maxout, and a channel split with a bypass."""
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d, self.head = conv(3, 32), nn.Conv2d(32, 64, 3, 1, 1), conv(16, 16), conv(32, 32), nn.Linear(16, 10)

    def forward(self, x):
        x = F.glu(self.b(self.a(x)), 1)
        left, right = x.chunk(2, 1)
        x = self.d(torch.cat([left, self.c(right)], 1))
        x = torch.maximum(*x.chunk(2, 1))
        return self.head(x.mean((2, 3)))


class Shuffle(nn.Module):
    """Super-resolution by sub-pixels, and a shuffle of grouped convolutions."""
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.up = conv(1, 32), conv(32, 32, g=4), conv(32, 32, g=4), nn.Conv2d(32, 4, 3, 1, 1)
        self.more, self.shrink = nn.Conv2d(32, 64, 1), conv(16, 32)

    def forward(self, x):
        y = self.b(self.a(x))
        y = self.c(y.view(-1, 4, 8, 16, 16).transpose(1, 2).reshape(-1, 32, 16, 16))
        y = F.pixel_unshuffle(self.shrink(F.pixel_shuffle(self.more(y), 2)), 2)
        return F.pixel_shuffle(self.up(y[:, :32]), 2)


class Text(nn.Module):
    """Token ids, an embedding, convolutions of three widths, maxima over time."""
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.convs = nn.ModuleList(nn.Conv1d(16, 24, k) for k in (3, 4, 5))
        self.head = nn.Linear(72, 4)

    def forward(self, ids):
        x = self.embed(ids).transpose(1, 2)
        return self.head(torch.cat([F.relu(c(x)).amax(2) for c in self.convs], 1))


class Temporal(nn.Module):
    """Causal dilated convolutions: pads at the front, weight-normed."""
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(a, b, 3, dilation=d) for a, b, d in ((8, 24, 1), (24, 24, 2), (24, 24, 4)))
        self.head = nn.Conv1d(24, 4, 1)

    def forward(self, x):
        x = F.leaky_relu(self.layers[0](F.pad(x, (2, 0))))
        for i, layer in enumerate(self.layers[1:], 1):
            x = x + F.elu(layer(F.pad(x, (2 * 2 ** i, 0))))
        return self.head(x)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.joint, self.p, self.q = conv(3, 16, s=2), nn.Linear(6, 16), nn.Linear(32, 32), nn.Linear(32, 3), nn.Linear(32, 5)

    def forward(self, image, facts):
        x = F.relu(self.joint(torch.cat([self.a(image).mean((2, 3)), torch.tanh(self.b(facts))], 1)))
        return self.p(x).log_softmax(1), self.q(x).sigmoid()


class Contracted(nn.Module):
    """An einsum that nothing here can see through."""
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 16, s=2), conv(16, 16), nn.Linear(16, 10)

    def forward(self, x):
        a = self.a(x)
        b = self.b(a).flatten(2)
        energy = torch.einsum("bcp,bdp->bcd", b, b).softmax(-1)
        return self.head(torch.einsum("bcd,bdp->bcp", energy, b).mean(2))


class Linear3d(nn.Module):
    """Per-token MLP with layer norms, unsqueezes and a residual."""
    def __init__(self):
        super().__init__()
        self.a, self.n, self.b, self.c, self.head = nn.Linear(12, 48), nn.LayerNorm(24), nn.Linear(48, 24), nn.Linear(24, 24), nn.Linear(24, 5)

    def forward(self, x):
        x = self.n(self.b(F.gelu(self.a(x))))
        return self.head((x + self.c(F.silu(x))).max(1)[0])


class Auto(nn.Module):
    """An autoencoder with a dense bottleneck: flatten, reshape back, transposed convolutions, grouped and strided."""
    def __init__(self):
        super().__init__()
        self.enc = nn.Sequential(conv(1, 16, s=2), conv(16, 32, s=2), nn.Flatten(), nn.Linear(32 * 49, 24))
        self.dec = nn.Linear(24, 32 * 49)
        self.up = nn.Sequential(nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.PReLU(16), nn.ConvTranspose2d(16, 16, 3, 1, 1, groups=16),
                                nn.ConvTranspose2d(16, 1, 3, 2, 1, output_padding=1))

    def forward(self, x):
        return torch.sigmoid(self.up(F.relu(self.dec(self.enc(x))).view(-1, 32, 7, 7)))


def nets():
    rows = []
    def net(name, build, shape, expected={}, **how):
        rows.append((name, export(build, shape, **how), expected))
    spatial = {0: "n", 2: "h", 3: "w"}
    sized = {"shapes": {"h": 32, "w": 48}}

    net("unet_transposed", lambda: UNet("transposed"), (1, 3, 32, 32), opset=11)
    net("unet_nearest", lambda: UNet("nearest"), (1, 3, 32, 32), opset=9)
    net("unet_bilinear", lambda: UNet("bilinear"), (1, 3, 32, 32), opset=13)
    net("unet_free_size", lambda: UNet("transposed"), (1, 3, 32, 48), opset=17, free=spatial, expected=sized)
    net("unet_free_bilinear", lambda: UNet("bilinear"), (1, 3, 32, 48), opset=13, free=spatial, expected=sized)
    net("ds_cnn", DsCnn, (1, 1, 49, 10), opset=11, free={0: "n"})
    net("ds_cnn_bn_kept", DsCnn, (1, 1, 49, 10), opset=8, folded=False)
    net("tc_resnet", TcResNet, (1, 40, 49), opset=13)
    net("tc_resnet_free_time", TcResNet, (1, 40, 49), opset=17, free={0: "n", 2: "t"}, expected={"shapes": {"t": 49}})
    net("conv_gru", lambda: Recurrent(nn.GRU), (1, 1, 16, 32), opset=13)
    net("conv_lstm", lambda: Recurrent(nn.LSTM), (1, 1, 16, 32), opset=17, free={0: "n"})
    net("keyword_transformer", Transformer, (1, 20, 40), opset=17)
    net("keyword_transformer_free", Transformer, (1, 20, 40), opset=14, free={0: "n"})
    net("se_linear", lambda: nn.Sequential(conv(3, 16, act=nn.Hardswish), Squeeze(16), conv(16, 32, act=nn.Hardswish), Squeeze(32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
        (1, 3, 24, 24), opset=14, free={0: "n"})
    net("se_linear_bn_kept", lambda: nn.Sequential(conv(3, 16, act=nn.Hardswish), Squeeze(16), conv(16, 32, act=nn.ReLU6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
        (1, 3, 24, 24), opset=11, folded=False, free={0: "n"})
    net("group_norm", lambda: Normalised(lambda c: nn.GroupNorm(4, c), lambda c: nn.Mish()), (1, 3, 16, 16), opset=17)
    net("instance_norm_prelu", lambda: Normalised(lambda c: nn.InstanceNorm2d(c, affine=True), nn.PReLU), (1, 3, 16, 16), opset=12)
    net("layer_norm_2d", lambda: Normalised(lambda c: nn.GroupNorm(1, c), lambda c: nn.GELU()), (1, 3, 16, 16), opset=20, expected={"prunable": False})
    net("style_transfer", Style, (1, 3, 32, 32), opset=11)
    net("style_transfer_free", Style, (1, 3, 32, 48), opset=17, free=spatial, expected=sized)
    net("cbam", Attentive, (1, 3, 24, 24), opset=13)
    net("detector", Detector, (1, 3, 64, 64), opset=13)
    net("detector_free_batch", Detector, (1, 3, 64, 64), opset=17, free={0: "n"})
    net("gated", Gated, (1, 3, 16, 16), opset=13, free={0: "n"})
    net("pixel_shuffle", Shuffle, (1, 1, 16, 16), opset=13)
    net("text_cnn", Text, None, opset=14, inputs=lambda: (torch.randint(0, 50, (1, 20)),))
    net("temporal", Temporal, (1, 8, 40), opset=12, free={0: "n"})
    net("two_inputs", TwoInputs, None, opset=15, inputs=lambda: (torch.randn(1, 3, 24, 24), torch.randn(1, 6)))
    net("einsum", Contracted, (1, 3, 16, 16), opset=13)
    net("token_mlp", Linear3d, (1, 7, 12), opset=17, free={0: "n"})
    net("autoencoder", Auto, (1, 1, 28, 28), opset=13, free={0: "n"})
    net("mlp", lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(), nn.Linear(128, 64), nn.SELU(), nn.Linear(64, 10)),
        (1, 1, 28, 28), opset=10, folded=False)
    return rows
