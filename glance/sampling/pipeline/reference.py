"""The picture that a family which edits begins with: how it reaches the pipeline."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image

from glance.core.errors import SampleError
from glance.core.pictures import DECODER_ERRORS, open_picture, to_rgb
from glance.sampling.settings import SampleSettings


@dataclass(frozen=True, slots=True)
class Reference:
    """A picture to edit, and the area at which it is shown to the transformer, in pixels."""

    picture: Image.Image
    area: int


def open_reference(settings: SampleSettings) -> Reference | None:
    """Return the picture that the settings name, upright; None when they name none.

    Raises SampleError if it is no longer what was examined.
    """
    if settings.reference is None:
        return None
    try:
        with open_picture(settings.reference) as picture:
            return Reference(to_rgb(picture)[0], area=settings.reference_side**2)
    except DECODER_ERRORS as exc:
        raise SampleError(f"reference {settings.reference} can be read no more: {exc}") from exc


def arrange_for_text(pipeline: Any, reference: Reference) -> Image.Image:
    """Return the small copy that the text encoder reads beside the prompt, as diffusers makes it.

    See `QwenImageEditPlusPipeline.__call__`, which does so unless it is given embeddings.
    """
    module = _module(pipeline)
    picture = reference.picture
    ratio = picture.width / picture.height
    width, height = module.calculate_dimensions(module.CONDITION_IMAGE_SIZE, ratio)
    small: Image.Image = pipeline.image_processor.resize(picture, height, width)
    return small


@contextmanager
def shown_at_its_area(pipeline: Any, reference: Reference | None) -> Iterator[None]:
    """Let the pipeline scale references to the area of this one while the block runs.

    diffusers scales every one to a megapixel, whatever a LoRA was trained on, by a constant of the
    pipeline's module and no argument.
    """
    if reference is None:
        yield
        return
    module = _module(pipeline)
    usual = module.VAE_IMAGE_SIZE
    module.VAE_IMAGE_SIZE = reference.area
    try:
        yield
    finally:
        module.VAE_IMAGE_SIZE = usual


def _module(pipeline: Any) -> Any:
    return sys.modules[type(pipeline).__module__]
