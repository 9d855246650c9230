"""Projector and splice: images put in the place of their ids (LLaVA).

Vision tokens are projected to the decoder's width and stand where the ids have -200; what follows
is a decoder over embeddings. Source: haotian-liu/LLaVA `llava_arch.py`.

B prompts, n images, N tokens of an image, P channels of a vision token, D width of the decoder,
T positions of the padded prompt.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.errors import PromptError
from diffvis_jax.images.anyres import NEWLINE
from diffvis_jax.language import generate
from diffvis_jax.language.config import DecoderConfig
from diffvis_jax.language.decoder import embed
from diffvis_jax.language.language_model import Language
from diffvis_jax.language.positions import Grid, collapsed, mrope_positions
from diffvis_jax.language.prompt import IMAGE_TOKEN, NO_VIDEOS, VIDEO_MARK
from diffvis_jax.language.prompt_cache import Prompt
from diffvis_jax.ops.matmul import linear
from diffvis_jax.ops.pointwise import gelu
from diffvis_jax.towers.params import Params

Ids = Any  # int [L], [B, L], or a list of lists of ints


def project(params: Params, tokens: jax.Array, *, config: DecoderConfig) -> jax.Array:
    """Vision tokens `[..., P]` -> `[..., D]` float32: linear layers with a GELU between them."""
    x = jnp.asarray(tokens, jnp.float32)
    for i in range(config.projector_layers):
        x = gelu(x) if i else x
        x = linear(x, **params["projector"][f"linear_{i}"])
    return x


class PackedTokens(NamedTuple):
    """Vision tokens of which a prompt shows some, in an order of its own: the tiles of an image
    (see `TiledImage`), or what a history holds.

    Attributes:
      tokens: `[R, P]`, or `[R, D]` if they are projected already.
      packing: int32 `[M]`, rows of them, or `NEWLINE` for a model with an `image_newline`.
      projected: whether the tokens went through the projector when they came.
    """

    tokens: Any
    packing: np.ndarray
    projected: bool = False


def packed(tokens: Any, packing: np.ndarray) -> PackedTokens:
    """Tokens `[1 + T, N, P]` of the frames of a `TiledImage`, as its prompt shows them."""
    return PackedTokens(tokens.reshape(-1, tokens.shape[-1]), packing)


class Splice(NamedTuple):
    """Where every position of some prompts comes from; plain numpy.

    Attributes:
      text: the id; 0 where there is none.
      image: the row among all images' tokens, n N of them; -1 where there is none.
      length: positions of each prompt; beyond it there is padding.
    """

    text: np.ndarray  # int32 [B, T]
    image: np.ndarray  # int32 [B, T]
    length: np.ndarray  # int32 [B]


def splice(
    input_ids: Ids,
    images: int,
    tokens_per_image: int | Sequence[int],
    *,
    vocabulary: int,
    pad_id: int | None = None,
    max_length: int,
    padded: int | None = None,
) -> Splice:
    """Puts the tokens of images in the place of every -200, in order (LLaVA's rules).

    In a batch, a prompt without a place for an image uses up one image without showing it; so do
    LLaVA's batches, where texts without a picture carry an empty one. Prompts longer than
    `max_length` are cut at their end, and all are padded on the right.

    Args:
      input_ids: of one prompt or several.
      images: n; 0 = there are none, and no places for them either.
      tokens_per_image: N, or that of each image.
      pad_id: an id of which a run, one for each token, stands for an image as -200 does; None =
        there is none.
      vocabulary: ids must be below it.
      max_length: longest spliced prompt.
      padded: T; None = the smallest of the fixed lengths that holds the longest prompt.

    Raises:
      PromptError: `input_ids` are no integers, or there is not one image for each -200; or a run
        of `pad_id` of another length.
    """
    several = isinstance(tokens_per_image, Sequence)
    sizes = list(tokens_per_image) if several else [tokens_per_image] * images
    first_rows = np.cumsum([0, *sizes])
    prompts, first = [], 0
    for ids in rows_of(input_ids):
        prompts.append(collapsed(ids, pad_id, IMAGE_TOKEN, sizes[first:], first))
        first += max(1, int((prompts[-1] == IMAGE_TOKEN).sum()))
    places = [int((ids == IMAGE_TOKEN).sum()) for ids in prompts]
    _check_ids(prompts, vocabulary)
    _check_images(places, images)
    texts, sources, seen = [], [], 0
    for ids, count in zip(prompts, places, strict=True):
        text = [np.zeros(0, np.int32)]
        source = [np.zeros(0, np.int32)]
        for number, piece in enumerate(np.split(ids, np.flatnonzero(ids == IMAGE_TOKEN))):
            if number:
                rows = first_rows[seen + number - 1 : seen + number + 1]
                source.append(np.arange(*rows, dtype=np.int32))
                text.append(np.zeros(rows[1] - rows[0], np.int32))
                piece = piece[1:]
            text.append(piece)
            source.append(np.full(len(piece), -1, np.int32))
        seen += max(count, 1) if images else 0
        texts.append(np.concatenate(text)[:max_length])
        sources.append(np.concatenate(source)[:max_length])
    length = np.array([len(text) for text in texts], np.int32)
    width = generate.padded_length(int(length.max())) if padded is None else padded
    if width < length.max():
        raise PromptError(f"a prompt of {length.max()} positions does not fit into {width}")

    def pad(rows: list[np.ndarray], value: int) -> np.ndarray:
        return np.stack([np.pad(row, (0, width - len(row)), constant_values=value) for row in rows])

    return Splice(text=pad(texts, 0), image=pad(sources, -1), length=length)


def rows_of(input_ids: Ids) -> list[np.ndarray]:
    """The prompts, int32 `[L]` each.

    Raises:
      PromptError: not ids, or an empty prompt.
    """
    several = isinstance(input_ids, Sequence) and len(input_ids) and np.ndim(input_ids[0]) == 1
    rows = [np.asarray(row) for row in input_ids] if several else np.asarray(input_ids)
    rows = [rows] if isinstance(rows, np.ndarray) and rows.ndim == 1 else list(rows)
    for row in rows:
        if row.ndim != 1 or not np.issubdtype(row.dtype, np.integer):
            raise PromptError(
                f"input_ids must be whole numbers [L] or [B, L], got {row.dtype} {list(row.shape)}"
            )
        if not len(row):
            raise PromptError("an empty prompt: input_ids has no ids")
    if not rows:
        raise PromptError("no prompts: input_ids is empty")
    return [row.astype(np.int32) for row in rows]


def _check_ids(prompts: list[np.ndarray], vocabulary: int) -> None:
    for ids in prompts:
        bad = ids[(ids != IMAGE_TOKEN) & ((ids < 0) | (ids >= vocabulary))]
        if len(bad):
            raise PromptError(
                f"ids {bad[:5].tolist()} are neither {IMAGE_TOKEN} (an image) nor among the "
                f"{vocabulary} of the model"
            )


def _check_images(places: list[int], images: int) -> None:
    if not images and any(places):
        raise PromptError(f"{sum(places)} places for images in input_ids, but no images")
    if images and not any(places):
        raise PromptError(f"{images} images, but no place ({IMAGE_TOKEN}) in input_ids")
    needed = sum(max(count, 1) for count in places)
    if images and images != needed:
        each = f": {places} in the prompts, where none counts as one" if len(places) > 1 else ""
        raise PromptError(f"{images} images for {needed} places{each}")


def _unpacked(spliced: Splice, packings: list[np.ndarray], rows: list[int]) -> Splice:
    """The same with `image` counted among all tokens, not among those that are shown; the row
    behind the last is the end of a line (`NEWLINE`)."""
    starts = np.cumsum([0, *rows])
    order = np.concatenate(
        [
            np.where(packing == NEWLINE, starts[-1], packing + start)
            for packing, start in zip(packings, starts, strict=False)
        ]
    )
    image = np.where(spliced.image < 0, -1, order[spliced.image]).astype(np.int32)
    return spliced._replace(image=image)


@functools.partial(jax.jit, static_argnames=("config", "projected"))
def embed_prompt(
    params: Params,
    spliced: Splice,
    tokens: jax.Array | None,
    rotary: jax.Array | None = None,
    *,
    config: DecoderConfig,
    projected: bool = False,
) -> Prompt:
    """Embeddings of spliced prompts with vision tokens `[n, N, P]`, or `[n N, P]`; None = no
    images. `rotary`: int32 `[B, T, 3]`, see `Prompt`; `projected`: whether the tokens are."""
    text, image, length = (jnp.asarray(part) for part in spliced)
    x = embed(params, text)
    if tokens is not None:
        rows = jnp.asarray(tokens) if projected else project(params, tokens, config=config)
        rows = rows.reshape(-1, config.width)
        if config.image_newline:
            rows = jnp.concatenate([rows, params["projector"]["image_newline"][None]])
        x = jnp.where((image >= 0)[..., None], rows[jnp.maximum(image, 0)], x)
    inside = jnp.arange(text.shape[1], dtype=jnp.int32)[None] < length[:, None]
    mark = -1 if config.image_token_id is None else config.image_token_id
    return Prompt(
        embeddings=jnp.where(inside[..., None], x, 0),
        image=image >= 0,
        length=length,
        rotary=rotary,
        ids=jnp.where(inside, jnp.where(image >= 0, jnp.int32(mark), text), -1),
    )


def make_prompt(
    language: Language,
    tokens: Any,
    input_ids: Ids,
    *,
    grids: Sequence[Grid] | None = None,
    padded: int | None = None,
    cut: bool = False,
) -> Prompt:
    """Splices vision tokens into prompts and embeds them.

    Args:
      tokens: vision tokens `[n, N, P]`, or a list of `[N, P]` of images of different sizes, and of
        `PackedTokens`, which all images of a model with an `image_newline` are; None = no images.
      input_ids: `[L]` or `[B, L]`, or a list of prompts of different lengths.
      grids: (rows, columns) of the tokens of each image, which a model with an `mrope_section`
        needs; None = not told.
      padded: T; None = see `splice`.
      cut: whether prompts that are too long are cut at their end.

    Raises:
      PromptError: see `splice`; vision tokens of another tower; a prompt that is too long, unless
        it may be cut; a place for a video.
    """
    config, prompts = language.config, rows_of(input_ids)
    if any((ids == config.video_token_id).any() for ids in prompts):
        raise PromptError(
            f"input_ids hold {config.video_token_id} ({VIDEO_MARK}), a place for a video; "
            f"{NO_VIDEOS}"
        )
    tokens = None if tokens is None or not len(tokens) else tokens
    images = list(tokens) if isinstance(tokens, list) else []
    packed_images = [x for x in images if isinstance(x, PackedTokens)]
    if tokens is not None and config.image_newline and len(packed_images) != len(tokens):
        raise PromptError(
            "images of this model are cut into tiles: give each as preprocess_tiles makes it"
        )
    if not config.image_newline and any((x.packing == NEWLINE).any() for x in packed_images):
        raise PromptError(
            "images of this model are not cut into tiles: give each as preprocess makes it"
        )
    projected = bool(packed_images) and packed_images[0].projected
    if projected and not all(isinstance(x, PackedTokens) and x.projected for x in images):
        raise PromptError("either all images of a prompt are projected already, or none is")
    packings: list[np.ndarray] = []
    if packed_images:
        packings = [x.packing if isinstance(x, PackedTokens) else np.arange(len(x)) for x in images]
        tokens = [x.tokens if isinstance(x, PackedTokens) else x for x in images]
    shapes: list[tuple[int, ...]] = []
    if isinstance(tokens, list):
        shapes = [x.shape for x in tokens]
    elif tokens is not None:
        shapes = [tokens.shape[1:]] * len(tokens)
    width = config.width if projected else config.projector_input
    for shape in shapes:
        if len(shape) != 2 or shape[1] != width:
            raise PromptError(
                f"vision tokens must be [images, tokens, {width}] for this "
                f"{'decoder' if projected else 'projector'}, got {[len(shapes), *shape]}"
            )
    mrope = bool(config.mrope_section)
    sizes = [len(packing) for packing in packings] or [shape[0] for shape in shapes]
    if mrope and [rows * columns for rows, columns in grids or ()] != sizes:
        raise PromptError(
            f"grids must be (rows, columns) of each image's tokens, for {sizes} tokens; got {grids}"
        )
    spliced = splice(
        prompts,
        len(sizes),
        sizes,
        vocabulary=config.vocabulary,
        pad_id=config.image_token_id,
        max_length=config.max_length if cut else 2**30,
        padded=padded,
    )
    if spliced.length.max() > config.max_length:
        raise PromptError(
            f"a prompt of {spliced.length.max()} positions, images included, does not fit into a "
            f"context of {config.max_length}"
        )
    rotary = mrope_positions(spliced.image, grids or ()) if mrope else None
    if packings:
        spliced = _unpacked(spliced, packings, [shape[0] for shape in shapes])
    if isinstance(tokens, list):
        tokens = jnp.concatenate([jnp.asarray(x) for x in tokens])
    return embed_prompt(
        language.params, spliced, tokens, rotary, config=config, projected=projected
    )
