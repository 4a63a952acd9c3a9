"""Tokenizers that need no file: a token a byte or a character, and each family's special ones."""

import string
from collections.abc import Iterable, Sequence

from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTokenizer,
    GemmaTokenizer,
    LlamaTokenizer,
    PixtralImageProcessor,
    PixtralProcessor,
    Qwen2Tokenizer,
    T5Tokenizer,
)

_BYTES = tuple(f"<0x{number:02X}>" for number in range(256))
# The turns of a conversation, as Qwen3's own template writes them for one message of the user.
_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)


def clip_tokenizer(*, tokens: int = 77) -> CLIPTokenizer:
    """CLIP's byte-level tokenizer without a single merge: any text, one token a byte."""
    bytes_ = sorted(ByteLevel.alphabet())
    pieces = [*bytes_, *(f"{byte}</w>" for byte in bytes_), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab=_numbered(pieces), merges=[], model_max_length=tokens)


def t5_tokenizer() -> T5Tokenizer:
    """T5's unigram tokenizer over printable ASCII: one token a character."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters = [(letter, -4.0) for letter in string.printable.strip()]
    return T5Tokenizer(vocab=[*special, *letters], extra_ids=0, model_max_length=512)


def qwen_tokenizer() -> Qwen2Tokenizer:
    """Qwen's byte-level tokenizer without a single merge, with the tokens of a conversation."""
    special = [
        *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
        *("<|image_pad|>", "<|video_pad|>"),
    ]
    return Qwen2Tokenizer(
        vocab=_numbered([*sorted(ByteLevel.alphabet()), *special]),
        merges=[],
        additional_special_tokens=special[1:],
        chat_template=_CHAT,
        model_max_length=131072,
    )


def llama_tokenizer(special: Sequence[str] = ()) -> LlamaTokenizer:
    """Llama's tokenizer over printable ASCII: one token a character, any other as its bytes."""
    return LlamaTokenizer(
        vocab=_numbered(
            ["<unk>", "<s>", "</s>", *_BYTES, "▁", *string.printable.strip(), *special]
        ),
        merges=[],
        additional_special_tokens=list(special),
        pad_token="</s>",
        model_max_length=4096,
        padding_side="right",
    )


def pixtral_processor() -> PixtralProcessor:
    """Mistral-Small-3.1's: Llama's pieces, pictures, and the user's turn alone.

    FLUX.2's long message of the system would fill all 512 places with its letters.
    """
    special = ["[IMG]", "[IMG_BREAK]", "[IMG_END]", "[INST]", "[/INST]"]
    return PixtralProcessor(
        image_processor=PixtralImageProcessor(),
        tokenizer=llama_tokenizer(special=special),
        chat_template=(
            "{% for message in messages if message.role == 'user' %}"
            "[INST]{% for part in message.content %}{{ part.text }}{% endfor %}[/INST]{% endfor %}"
        ),
    )


def gemma_tokenizer() -> GemmaTokenizer:
    """Gemma's tokenizer over printable ASCII: one token a character, any other as its bytes."""
    special = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
    return GemmaTokenizer(
        vocab=_numbered([*special, *_BYTES, "▁", *string.printable.strip()]),
        merges=[],
        model_max_length=4096,
        padding_side="right",
    )


def _numbered(pieces: Iterable[str]) -> dict[str, int]:
    return {piece: number for number, piece in enumerate(pieces)}
