"""Checkpoints of lerobot's own families with random weights, as small as the code allows, saved by lerobot itself.

Run by a Python that has lerobot. Nothing is downloaded: backbone, tokenizer and picture processor of the language
models are built here, too.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_policy_config, make_pre_post_processors
from lerobot.processor import (
    AbsoluteActionsProcessorStep,
    PolicyProcessorPipeline,
    RelativeActionsProcessorStep,
    UnnormalizerProcessorStep,
)

DIM = 3
JOINTS = ["shoulder.pos", "elbow.pos", "gripper.pos"]
CAMERAS = ("observation.images.front", "observation.images.wrist")
VOCABULARY = 64
WORDS = ("pick", "up", "the", "cup", "fold", "towel", "slowly")


def act(folder: Path, **values: Any) -> Path:
    """ACT over two small pictures."""
    small = {"dim_model": 32, "n_heads": 2, "dim_feedforward": 32, "latent_dim": 8}
    layers = {"n_encoder_layers": 1, "n_vae_encoder_layers": 1}
    config = _config(
        "act",
        48,
        CAMERAS,
        chunk_size=6,
        n_action_steps=6,
        pretrained_backbone_weights=None,
        **small,
        **layers,
        **values,
    )
    return _save(config, folder)


def diffusion(folder: Path, **values: Any) -> Path:
    """A diffusion policy that looks at two moments; DDIM draws nothing but the first noise."""
    config = _config(
        "diffusion", 48, CAMERAS, n_obs_steps=2, horizon=8, n_action_steps=4, crop_shape=None,
        pretrained_backbone_weights=None, down_dims=(16, 32), diffusion_step_embed_dim=16, n_groups=4,
        spatial_softmax_num_keypoints=4, noise_scheduler_type="DDIM", num_train_timesteps=10, num_inference_steps=2,
        **values,
    )  # fmt: skip
    return _save(config, folder)


def vqbet(folder: Path) -> Path:
    """VQ-BeT over three moments of one picture."""
    config = _config(
        "vqbet", 48, CAMERAS[:1], n_obs_steps=3, n_action_pred_token=2, action_chunk_size=4, crop_shape=None,
        pretrained_backbone_weights=None, spatial_softmax_num_keypoints=4, vqvae_n_embed=4, vqvae_embedding_dim=8,
        vqvae_enc_hidden_dim=8, gpt_block_size=32, gpt_input_dim=16, gpt_output_dim=16, gpt_n_layer=1, gpt_n_head=2,
        gpt_hidden_dim=16, use_group_norm=True,
    )  # fmt: skip
    return _save(config, folder)


def tdmpc(folder: Path) -> Path:
    """TD-MPC: it plans, and starts each plan from the last one."""
    config = _config(
        "tdmpc", 64, ("observation.image",), horizon=3, n_action_steps=3, n_action_repeats=1, n_gaussian_samples=8,
        n_pi_samples=4, n_elites=4, latent_dim=8, mlp_dim=8, state_encoder_hidden_dim=8, image_encoder_hidden_dim=4,
        cem_iterations=2, max_random_shift_ratio=0.0,
    )  # fmt: skip
    return _save(config, folder)


def smolvla(folder: Path, *, relative: bool = False, num_steps: int = 3, **values: Any) -> Path:
    """SmolVLA over a language model of a few thousand weights; `relative`: actions relative to the state."""
    config = _config(
        "smolvla", 64, CAMERAS, chunk_size=8, n_action_steps=8, max_state_dim=8, max_action_dim=8, num_steps=num_steps,
        resize_imgs_with_padding=(64, 64), num_vlm_layers=2, expert_width_multiplier=0.5, tokenizer_max_length=16,
        vlm_model_name=str(backbone(folder.parent / f"{folder.name}-backbone")), **values,
    )  # fmt: skip
    return _save(config, folder, relative=relative)


def pi0(folder: Path, *, kind: str = "pi0", relative: bool = False) -> Path:
    """pi0 or pi05 over a language model of a few thousand weights, in this process: see `small_gemma`."""
    tokenizer = str(backbone(folder.parent / f"{folder.name}-backbone"))
    small_gemma(kind, tokenizer)
    config = _config(
        kind, 64, CAMERAS, chunk_size=8, n_action_steps=8, max_state_dim=8, max_action_dim=8, num_inference_steps=3,
        image_resolution=(56, 56), tokenizer_max_length=16, use_relative_actions=relative, action_feature_names=JOINTS,
    )  # fmt: skip
    return _save(config, folder)


def small_gemma(kind: str, tokenizer: str) -> None:
    """Make lerobot build pi0 and pi05 small: its sizes are fixed in the code, the least has a billion weights."""
    modelling = importlib.import_module(f"lerobot.policies.{kind}.modeling_{kind}")
    processing = importlib.import_module(f"lerobot.policies.{kind}.processor_{kind}")
    if type(modelling.CONFIG_MAPPING) is dict:  # done already
        return
    plain, vision = modelling.CONFIG_MAPPING, {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    modelling.get_gemma_config = lambda _: modelling.GemmaConfig(32, 2, 32, 2, 1, 16)
    modelling.CONFIG_MAPPING = {
        "paligemma": lambda: _held(plain["paligemma"](vision_config={"model_type": "siglip_vision_model", **vision})),
        "gemma": lambda **values: plain["gemma"](**values | {"vocab_size": VOCABULARY}),
    }
    step = processing.TokenizerProcessorStep
    processing.TokenizerProcessorStep = lambda **values: step(**values | {"tokenizer_name": tokenizer})


def _held(config: Any) -> Any:
    """A PaliGemma config whose fixed sizes are small, whatever is written to them."""
    fixed = ((config.text_config, {"vocab_size": VOCABULARY}),
             (config.vision_config, {"projection_dim": 32, "intermediate_size": 32}))  # fmt: skip
    for part, sizes in fixed:

        def keep(self: Any, name: str, value: Any, sizes: dict[str, int] = sizes) -> None:
            object.__setattr__(self, name, sizes.get(name, value))

        part.__class__ = type(part.__class__.__name__, (part.__class__,), {"__setattr__": keep})
        for name in sizes:
            setattr(part, name, 0)
    return config


def backbone(folder: Path) -> Path:
    """A vision-language model's config, tokenizer and picture processor, without weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        SmolVLMConfig,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    special = [
        "<pad>",
        "<unk>",
        "<s>",
        "</s>",
        "<image>",
        "<fake_token_around_image>",
        "<global-img>",
        "<end_of_utterance>",
    ]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS, "\n"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        extra_special_tokens=dict(
            zip(("image_token", "fake_image_token", "global_image_token"), special[4:], strict=False)
        ),
    )  # fmt: skip
    config = SmolVLMConfig(
        text_config={
            "model_type": "llama", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": len(vocabulary),
            "pad_token_id": 0, "max_position_embeddings": 256,
        },
        vision_config={
            "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 64, "patch_size": 16,
        },
        image_token_id=4, scale_factor=2, pad_token_id=0,
    )  # fmt: skip
    config.save_pretrained(folder)
    SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(),
        tokenizer=fast,
        video_processor=SmolVLMVideoProcessor(),
        image_seq_len=4,
    ).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def statistics(pictures: tuple[str, ...], seed: int = 3) -> dict[str, dict[str, torch.Tensor]]:
    """Statistics that move every number, so that a normalisation left out shows."""
    draw = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> dict[str, torch.Tensor]:
        mean, spread = torch.rand(shape, generator=draw), torch.rand(shape, generator=draw) + 0.5
        ends = {"min": mean - spread, "max": mean + spread, "q01": mean - 0.9 * spread, "q99": mean + 0.9 * spread}
        return {"mean": mean, "std": spread, **ends}

    return {
        "observation.state": numbers(DIM),
        "action": numbers(DIM),
        **{name: numbers(3, 1, 1) for name in pictures},
    }


def _config(kind: str, size: int, cameras: tuple[str, ...], **values: Any) -> PreTrainedConfig:
    pictures = {name: PolicyFeature(FeatureType.VISUAL, (3, size, size)) for name in cameras}
    return make_policy_config(
        kind, device="cpu", push_to_hub=False,
        input_features={"observation.state": PolicyFeature(FeatureType.STATE, (DIM,)), **pictures},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (DIM,))}, **values,
    )  # fmt: skip


def _save(config: PreTrainedConfig, folder: Path, *, relative: bool = False) -> Path:
    torch.manual_seed(0)
    network = get_policy_class(config.type)(config)
    with torch.no_grad():
        for values in network.parameters():  # some begin at zero, and would hide what does not arrive
            values.add_(torch.randn_like(values) * 0.02)
    network.save_pretrained(folder)
    before, after = make_pre_post_processors(config, dataset_stats=statistics(tuple(config.image_features)))
    if relative:
        make_relative(before, after)
    before.save_pretrained(folder)
    after.save_pretrained(folder)
    return folder


def make_relative(before: PolicyProcessorPipeline, after: PolicyProcessorPipeline) -> None:
    """Put the steps of relative actions where pi0 has them; the gripper stays absolute."""
    step = RelativeActionsProcessorStep(enabled=True, exclude_joints=["gripper"])
    before.steps.insert(len(before.steps) - 1, step)
    place = next(i for i, s in enumerate(after.steps) if isinstance(s, UnnormalizerProcessorStep))
    after.steps.insert(place + 1, AbsoluteActionsProcessorStep(enabled=True, relative_step=step))
