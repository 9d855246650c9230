"""What a converted language model is: a decoder (Llama and Mistral lack Qwen2's biases, and no
more), projector."""

import dataclasses

from diffvis_jax.errors import ConfigError
from diffvis_jax.utils.config_checks import require_positive


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Architecture of a decoder and of the projector before it; the defaults are FastVLM-0.5B's.

    Its parameters, V vocabulary rows, D width, H heads, G key-value heads, d head width, M mlp
    width, P projector input:

        projector/linear_{i}/{weight, bias}     [D, P] first, then [D, D]; GELU (erf) between them
        projector/image_newline                 [D], only with `image_newline`
        embed/embedding                         [V, D]
        layer_{n}/input_norm/scale              [D]
        layer_{n}/attention/query/{weight,bias} [H d, D], [H d]; bias only with `qkv_bias`
        layer_{n}/attention/key, value          [G d, D], [G d]
        layer_{n}/attention/output/weight       [D, H d]
        layer_{n}/mlp_norm/scale                [D]
        layer_{n}/mlp/{gate, up}/weight         [M, D]
        layer_{n}/mlp/down/weight               [D, M]
        final_norm/scale                        [D]
        head/weight                             [V, D], only when not `tied`

    Attributes:
      vocabulary: V, rows of the embedding. Files pad it beyond the tokenizer's last id; the rows
        beyond were never trained, so their logits mean nothing.
      width, layers, heads, kv_heads, head_width, mlp_width: D, depth, H, G, d, M.
      rope_theta: base of the rotary embedding.
      mrope_section: frequencies of the rotary embedding that turn with time, row and column, which
        add up to half the head width (see `positions.py`); empty = all turn with one position.
      norm_epsilon: of the RMS norms.
      qkv_bias: whether query, key and value have biases (Qwen2: yes, Llama: no).
      tied: whether the output uses the embedding's matrix.
      max_length: longest spliced sequence.
      bos_id, pad_id: None where the source names none.
      eos_ids: ids that end a generation.
      image_token_id: id that the tokenizer gives `<image>`, where it has one. In `input_ids` an
        image is -200, or a run of this id, one for each of its tokens.
      video_token_id: id that stands for a video, which no prompt may hold; None = there is none.
      conversation: template of its prompts, see `prompt.py`; empty = its files do not tell.
      repetition_penalty: what its files say that logits of ids already there are divided by; 1 =
        nothing.
      projector_layers: linear layers of the projector, 0 = the tower's tokens as they are.
      image_newline: whether images are tiled, and the rows of their tokens end with a vector of
        their own (LLaVA-1.6).
      projector_input: P, channels of a vision token.
      dtype: dtype of the matrices, "float32" or "bfloat16".

    Raises:
      ConfigError: sizes that do not fit together; names them.
    """

    vocabulary: int = 151936
    width: int = 896
    layers: int = 24
    heads: int = 14
    kv_heads: int = 2
    head_width: int = 64
    mlp_width: int = 4864
    rope_theta: float = 1_000_000.0
    mrope_section: tuple[int, ...] = ()
    norm_epsilon: float = 1e-6
    qkv_bias: bool = True
    tied: bool = True
    max_length: int = 8192
    bos_id: int | None = None
    pad_id: int | None = None
    eos_ids: tuple[int, ...] = (151645, 151643)
    image_token_id: int | None = None
    video_token_id: int | None = None
    conversation: str = "qwen_2"
    repetition_penalty: float = 1.0
    projector_layers: int = 2
    image_newline: bool = False
    projector_input: int = 3072
    dtype: str = "float32"

    def __post_init__(self):
        require_positive(self, "vocabulary", "width", "layers", "heads", "kv_heads", "head_width")
        require_positive(self, "mlp_width", "max_length", "projector_input")
        if self.heads % self.kv_heads:
            raise ConfigError(
                f"{self.heads} heads cannot share {self.kv_heads} key-value heads evenly"
            )
        if self.head_width % 2:
            raise ConfigError(f"rotary embedding needs an even head_width, got {self.head_width}")
        section = self.mrope_section
        if section and (len(section) != 3 or sum(section) != self.head_width // 2):
            raise ConfigError(
                f"mrope_section must be three numbers that add up to half the head width of "
                f"{self.head_width}, got {section}"
            )
        if self.projector_layers == 0 and self.projector_input != self.width:
            raise ConfigError(
                f"without a projector the vision tokens ({self.projector_input} channels) must be "
                f"as wide as the language model ({self.width})"
            )
        if self.repetition_penalty <= 0:
            raise ConfigError(f"repetition_penalty must be above 0, got {self.repetition_penalty}")
        if self.dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"dtype must be 'float32' or 'bfloat16', got {self.dtype!r}")
