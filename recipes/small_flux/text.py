"""The small FLUX's two text encoders and their tokenizers: one piece for each word of the world.

Any other text still reads, letter by letter. The encoders learn with the transformer.
"""

import string
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from glance.evaluation.small_world.world import every_word

WIDTH = 64


@dataclass
class Text:
    """Both encoders with their tokenizers."""

    clip: CLIPTextModel
    clip_tokenizer: CLIPTokenizer
    t5: T5EncoderModel
    t5_tokenizer: T5Tokenizer

    def encode(self, captions: list[str], *, length: int | None = None) -> tuple[Tensor, Tensor]:
        """Return T5's hidden states, padded to `length` (or the longest), and CLIP's summary."""
        t5 = self.t5_tokenizer(
            captions,
            padding="max_length" if length else "longest",
            max_length=length or 512,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        # CLIP is causal: what follows the end token changes nothing, so no padding to 77
        clip = self.clip_tokenizer(
            captions, padding="longest", max_length=77, truncation=True, return_tensors="pt"
        ).input_ids
        return self.t5(t5).last_hidden_state, self.clip(clip).pooler_output


def build_text() -> Text:
    """Return fresh encoders."""
    clip_tokenizer, t5_tokenizer = _clip_tokenizer(), _t5_tokenizer()
    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(clip_tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            bos_token_id=clip_tokenizer.bos_token_id,
            eos_token_id=clip_tokenizer.eos_token_id,
            pad_token_id=clip_tokenizer.pad_token_id,
        )
    )
    t5 = T5EncoderModel(
        T5Config(
            vocab_size=len(t5_tokenizer),
            d_model=WIDTH,
            d_kv=16,
            d_ff=2 * WIDTH,
            num_layers=1,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
        )
    )
    torch.nn.init.normal_(clip.get_input_embeddings().weight, std=0.3)
    return Text(clip, clip_tokenizer, t5, t5_tokenizer)


def _clip_tokenizer() -> CLIPTokenizer:
    """CLIP's byte-level tokenizer, merged until every word of the world is one piece."""
    bytes_ = sorted(ByteLevel.alphabet())
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trainer = trainers.BpeTrainer(
        vocab_size=5000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False
    )
    learner.train_from_iterator(every_word(), trainer)
    merges = [tuple(pair) for pair in _merges(learner)]
    pieces = [*bytes_, *(f"{byte}</w>" for byte in bytes_), *("".join(pair) for pair in merges)]
    pieces = list(dict.fromkeys([*pieces, "<|startoftext|>", "<|endoftext|>"]))
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def _merges(learner: Tokenizer) -> list[list[str]]:
    import json

    found: list[list[str]] = json.loads(learner.to_str())["model"]["merges"]
    return found


def _t5_tokenizer() -> T5Tokenizer:
    """T5's unigram tokenizer: whole words where it knows them, letters elsewhere."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    words = [(f"▁{word}", -2.0) for word in every_word() if len(word) > 1]
    letters = [(letter, -8.0) for letter in string.printable.strip()]
    return T5Tokenizer(
        vocab=[*special, *words, ("▁a", -2.0), *letters], extra_ids=0, model_max_length=512
    )
