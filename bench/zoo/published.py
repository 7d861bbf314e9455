"""Architectures as torchvision and timm publish them, with random weights; the largest with fewer blocks."""
import functools

import timm, torch, torchvision

from exporting import export

BATCH = {0: "n"}


def nets():
    rows = []
    def vision(name, label=None, size=64, options={}, expected={}, **how):
        build = functools.partial(build_tv, name, options)
        rows.append((label or name, export(build, (1, 3, size, size), **how), expected))
    def image(name, label=None, size=64, options={}, expected={}, **how):
        build = functools.partial(timm.create_model, name, pretrained=False, num_classes=10, **options)
        rows.append((label or name, export(build, (1, 3, size, size), **how), expected))

    vision("resnet18", opset=13, free=BATCH)
    vision("resnet18", "resnet18_bn_kept", opset=11, folded=False)
    vision("resnet50", opset=9)
    rows.append(("resnext", export(resnext, (1, 3, 64, 64), opset=17), {}))
    rows.append(("vgg11_bn", export(vgg, (1, 3, 64, 64), opset=12), {}))
    vision("mobilenet_v2", opset=10, free=BATCH)
    vision("mobilenet_v2", "mobilenet_v2_opset7", opset=7)
    vision("mobilenet_v3_small", opset=14, free=BATCH)
    vision("mobilenet_v3_large", "mobilenet_v3_bn_kept", opset=16, folded=False)
    vision("shufflenet_v2_x1_0", opset=13, free=BATCH)
    vision("shufflenet_v2_x0_5", "shufflenet_opset9", opset=9)
    vision("densenet121", opset=15)
    vision("squeezenet1_1", opset=8)
    vision("efficientnet_b0", opset=18, free=BATCH)
    vision("googlenet", opset=12, options={"aux_logits": False, "init_weights": False})
    vision("inception_v3", size=96, opset=17, options={"aux_logits": False, "init_weights": False})
    vision("mnasnet1_0", opset=11, folded=False)
    vision("regnet_y_400mf", opset=17)
    vision("regnet_x_400mf", opset=19)
    image("convnext_tiny", "convnext", opset=17, options={"depths": (2, 2, 2, 2), "dims": (32, 64, 128, 192)})
    rows.append(("swin", export(swin, (1, 3, 64, 64), opset=17), {}))
    rows.append(("vit_torchvision", export(vit, (1, 3, 64, 64), opset=17), {}))
    image("vit_tiny_patch16_224", "vit_tiny", opset=17, options={"img_size": 64})
    image("vit_tiny_patch16_224", "vit_tiny_free_batch", opset=14, options={"img_size": 64}, free=BATCH)
    image("deit_tiny_patch16_224", "deit_tiny_opset20", opset=20, options={"img_size": 64})
    image("mixer_s16_224", "mlp_mixer", opset=17, options={"img_size": 64})
    image("mobilevit_xxs", opset=17)
    image("ghostnet_100", "ghostnet", opset=12)
    image("repvgg_a0", opset=13)
    image("cs3darknet_s", "csp_darknet", opset=11, folded=False)
    image("darknet21", opset=16)
    image("hrnet_w18_small", opset=13)
    image("legacy_seresnet18", "se_resnet18", opset=9)
    image("res2net50_26w_4s", "res2net", opset=13, options={"layers": (1, 1, 1, 1)})
    image("dla46_c", "dla", opset=17)
    image("lcnet_050", opset=13)
    image("edgenext_xx_small", opset=17)
    image("levit_128s", opset=17, size=224)
    image("poolformer_s12", opset=17)
    image("mobileone_s0", opset=17)
    image("efficientformer_l1", opset=17, size=224)
    image("fastvit_t8", opset=17)
    image("mobilenetv4_conv_small", opset=18)
    image("resnet18", "resnet18_dynamo", opset=18, dynamo=True)
    image("mobilenetv3_small_050", "mobilenet_v3_dynamo", opset=21, dynamo=True)
    image("vit_tiny_patch16_224", "vit_tiny_dynamo", opset=18, dynamo=True, options={"img_size": 64})
    vision("shufflenet_v2_x1_0", "shufflenet_dynamo", opset=20, dynamo=True)
    return rows


def vgg():
    """The published net has 515 MB of weights in its first product: more than a model may have here."""
    head = [torch.nn.Flatten(), torch.nn.Linear(512 * 4, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)]
    return torch.nn.Sequential(torchvision.models.vgg11_bn(weights=None).features, *head)


def resnext():
    """Grouped convolutions, of one bottleneck a stage."""
    return torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], 10, groups=32, width_per_group=4)


def swin():
    """Shifted windows, of three shallow stages."""
    return torchvision.models.SwinTransformer([4, 4], 48, [2, 2, 2], [3, 6, 12], [4, 4], num_classes=10)


def vit():
    """torchvision's transformer, shallow: its published ones are over what a model may weigh here."""
    return torchvision.models.VisionTransformer(64, 16, num_layers=3, num_heads=3, hidden_dim=96, mlp_dim=384, num_classes=10)


def build_tv(name, options):
    return torchvision.models.get_model(name, weights=None, num_classes=10, **options)
