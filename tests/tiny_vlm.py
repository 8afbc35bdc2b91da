"""A tiny random-weight Idefics3, built on the spot: real picture processor, chat template and weights, no download.

It says nonsense, so it proves plumbing: pictures, tokens, batches, time limits, constrained answers.
Run by hand: python -m tests.tiny_vlm FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import prompts
from tasks import questions

IMAGE_SIDE = 64
PATCH = 16
SCALE = 2
POSITIONS_MAX = 16384
VOCABULARY = 1500
GRID = 4
QUOTE_BIAS, COMMA_BIAS = 0.4, -0.4  # logits of random weights differ by about 0.16
ODD_BIAS = -10.0

TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}: "
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] in ('image', 'image_url') %}<image>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:"
    "{% if enable_thinking | default(true) %} Let me think.{% endif %}{% endif %}"
)


def build(folder: Path) -> Path:
    """Write model, processor and chat template into a folder and return it."""
    processor = _processor()
    _model(processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _tokenizer():
    """A byte-level BPE trained on the words it will see: prompts and answer schemas."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = {
        "image_token": "<image>",
        "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    }
    grid = [f"<row_{r}_col_{c}>" for r in range(1, GRID + 1) for c in range(1, GRID + 1)]
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>"],
        show_progress=False,
    )
    base.train_from_iterator(_corpus(), trainer)
    base.add_special_tokens([AddedToken(t, special=True) for t in [*special.values(), *grid]])
    return PreTrainedTokenizerFast(
        tokenizer_object=base,
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        model_max_length=POSITIONS_MAX,
        extra_special_tokens=special,
    )


def _corpus() -> list[str]:
    schemas = [
        json.dumps(c.model_json_schema())
        for c in vars(questions).values()
        if isinstance(c, type) and issubclass(c, questions.Answer)
    ]
    return [prompts.text(name) for name in prompts.names()] + schemas


def _processor():
    from transformers import Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    side = {"longest_edge": IMAGE_SIDE}
    pictures = Idefics3ImageProcessorPil(do_image_splitting=False, size=side, max_image_size=side)
    tokens_per_picture = (IMAGE_SIDE // PATCH) ** 2 // SCALE**2
    return Idefics3Processor(pictures, _tokenizer(), image_seq_len=tokens_per_picture, chat_template=TEMPLATE)


def _model(processor):
    import torch
    from transformers import GenerationConfig, Idefics3Config, Idefics3ForConditionalGeneration

    tokenizer = processor.tokenizer
    width = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = Idefics3Config(
        scale_factor=SCALE,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        vision_config={**width, "image_size": IMAGE_SIDE, "patch_size": PATCH},
        text_config={
            **width,
            **ends,
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "num_key_value_heads": 2,
            "head_dim": 32,  # fast attention kernels know none below
            "max_position_embeddings": POSITIONS_MAX,
        },
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Idefics3ForConditionalGeneration(config).eval()
    model.generation_config = GenerationConfig(do_sample=False, sequence_bias=_leanings(tokenizer), **ends)
    return model


def _leanings(tokenizer) -> list[list]:
    """What it says in JSON is short and valid: it closes strings and avoids commas, blanks, controls."""
    biases = []
    for token in set(range(len(tokenizer))) - set(tokenizer.all_special_ids):
        text = tokenizer.decode([token])
        if not text.strip() or min(text) < " " or text.startswith(' "'):
            biases.append([[token], ODD_BIAS])
        elif text[0] == '"':
            biases.append([[token], QUOTE_BIAS])
        elif "," in text:
            biases.append([[token], COMMA_BIAS])
    return biases


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
