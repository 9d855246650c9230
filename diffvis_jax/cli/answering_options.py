"""The options of scripts that answer questions, and what becomes of them."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from diffvis_jax.cli.chosen_size import add_size
from diffvis_jax.cli.command_line import number, whole
from diffvis_jax.cli.frame_sizes import add_bounds, has_sizes, with_bounds
from diffvis_jax.cli.models import add_model, find_model
from diffvis_jax.cli.named_policies import HELP as POLICY_HELP
from diffvis_jax.cli.named_policies import find_policy

if TYPE_CHECKING:  # so that --help does not wait for JAX
    import diffvis_jax as dv

PROMPT_STYLES = ("plain", "pyautogui")
COMPRESS = ("none", "history", "merge", "pool", "random")  # CompressOptions.method
COORDINATES = ("as-written", "screen", "screen_share", "input", "input_share")


def add_model_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Which model, and how it sees."""
    model = parser.add_argument_group("the model")
    add_model(model.add_argument, required=required)
    model.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of the computation (default: as the weights are)",
    )
    model.add_argument(
        "--decode-dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="decode with a copy of the language model in this dtype, beside the one that reads "
        "the prompt; auto: in float32 on a CPU, where that is faster, if the copy takes at most "
        "4 GB (%(default)s)",
    )
    model.add_argument(
        "--force-pad-aspect",
        action="store_true",
        help="pad pictures to a square, whatever the model's files say",
    )
    add_bounds(model.add_argument)
    add_size(model.add_argument)


def add_answer_options(parser: argparse.ArgumentParser) -> None:
    """What is asked, and how it is answered."""
    add = parser.add_argument_group("question and answer").add_argument
    add("--prompt", metavar="TEXT", help="the question, or with --prompt-style pyautogui the task")
    add(
        "--prompt-style",
        choices=PROMPT_STYLES,
        default="plain",
        help="plain: as it is; pyautogui: ask for commands, and read them out of the answer",
    )
    add(
        "--coordinates",
        choices=COORDINATES,
        help="what the numbers in commands mean: shares or pixels of the screenshot or of the "
        "model's input; as-written: two numbers in 0-1 with a decimal point are shares of the "
        "screenshot, others its pixels (default: as-written, of Qwen2.5-VL input)",
    )
    add("--conv-mode", metavar="NAME", help="template of the prompt (default: the model's own)")
    add(
        "--add-vision-id",
        action="store_true",
        help="number the images in the prompt, as Qwen2.5-VL's template can",
    )
    add(
        "--temperature",
        metavar="T",
        type=number(0, 100, "a temperature from 0 up"),
        default=0.0,
        help="0 = the likeliest token always (default); above: chance decides, see --seed",
    )
    add(
        "--top-p",
        "--top_p",
        metavar="P",
        type=number(0, 1, "a probability, 0-1"),
        help="with a temperature: only the likeliest tokens that make up this much (default: all)",
    )
    add(
        "--repetition-penalty",
        metavar="P",
        type=number(0.01, 100, "a penalty, 0.01-100"),
        help="above 1: tokens of prompt and answer become unlikelier (default: as the model's "
        "files say; 1 = none)",
    )
    add(
        "--num-beams",
        "--num_beams",
        metavar="N",
        type=whole(1, 64, "a whole number of beams, 1-64"),
        default=1,
        help="above 1: beam search, which needs temperature 0",
    )
    add(
        "--max-new-tokens",
        "--max_new_tokens",
        metavar="N",
        type=whole(1, 10**6, "a whole number of tokens >= 1"),
        default=256,
        help="longest answer (256)",
    )
    add(
        "--history",
        metavar="N",
        type=whole(0, 100, "a whole number of frames, 0-100"),
        default=0,
        help="show the N frames before each, too, as they were encoded then (0)",
    )
    add(
        "--compress",
        choices=COMPRESS,
        default="none",
        help="which vision tokens a prompt shows: history: one for as long as a patch shows the "
        "same, of all frames so far; merge: those that resemble each other become one; pool: "
        "squares become one; random: some by chance, to compare with (%(default)s: all of a frame)",
    )
    add(
        "--token-budget",
        metavar="N",
        type=whole(1, 2**20, "a whole number of tokens >= 1"),
        help="at most so many vision tokens in a prompt (default: four frames for a history, a "
        "quarter of a frame else)",
    )
    add(
        "--history-layout",
        choices=("changes", "current"),
        help="of --compress history: in order of arrival (changes, the default), or the past and "
        "then the whole present (current)",
    )
    add(
        "--history-tolerance",
        metavar="X",
        type=number(0, 1e6, "a number >= 0"),
        help="of --compress history: keep what moved by no more than this, each token for itself; "
        "0 = lossless (default: as suits the tower)",
    )
    add(
        "--layer-keep",
        metavar="SHARE",
        type=number(0, 1, "a share of the image tokens, 0-1"),
        nargs="+",
        help="shares of the image tokens that go on after equal parts of the language model's "
        "layers, such as 0.7 0.5 0.4; every prompt is read afresh then (default: all go on)",
    )
    add(
        "--seed",
        metavar="N",
        type=whole(0, 2**31 - 1, "a whole number, 0-2147483647"),
        default=0,
        help="of chance (0)",
    )


def add_differential_options(parser: argparse.ArgumentParser, *, disable: bool = True) -> None:
    """What may be left out where little changed; `disable`: whether nothing may be."""
    add = parser.add_argument_group("what may be left out").add_argument
    if disable:
        add(
            "--disable-differential",
            action="store_true",
            help="encode every frame in full, and read every prompt afresh",
        )
    add(
        "--policy",
        metavar="NAME",
        help=f"{POLICY_HELP} (default: faithful); the options below change it",
    )
    add(
        "--diff-threshold",
        metavar="SHARE",
        type=number(0, 1, "a share of the full scale, 0-1"),
        help="a patch has changed if it differs by more than this (default: the policy's)",
    )
    add(
        "--diff-max-changed-patches",
        metavar="N",
        type=whole(0, 10**6, "a whole number of patches >= 0"),
        help="above it, encode in full (default: the policy's)",
    )
    add(
        "--diff-patch-size",
        metavar="PIXELS",
        type=whole(1, 10**4, "a whole number of pixels >= 1"),
        help="side of a patch in the model's input; it is the model's, any other is refused",
    )
    add(
        "--diff-skip-small",
        metavar="N",
        type=whole(0, 10**6, "a whole number of patches >= 0"),
        nargs="?",
        const=1,
        help="put changes of at most N patches (1) off until more has changed",
    )
    add(
        "--prefill",
        choices=("exact", "bounded"),
        default="exact",
        help="exact: the prompt is read again from the first changed token on; bounded: unchanged "
        "image tokens behind it are kept, which is an approximation (default: exact)",
    )
    add(
        "--prefill-refresh",
        metavar="N",
        type=whole(0, 10**6, "a whole number >= 0"),
        help="bounded: an exact prefill after so many steps; 0 = never (10)",
    )
    add(
        "--prefill-tolerance",
        metavar="SHARE",
        type=number(0, 1e6, "a number >= 0"),
        default=0.0,
        help="image tokens that moved by no more than this, relative to their RMS, count as "
        "unchanged (0): where encodes move all tokens a little, exact prefills begin at the first",
    )


def check_answer_options(args: argparse.Namespace) -> None:
    """Raises ValueError if an option is about chance, or about what is left out of a prefill, and
    there is none."""
    if args.top_p is not None and args.temperature == 0:
        raise ValueError("--top-p is about chance: give a --temperature above 0 too, or drop it")
    if args.num_beams > 1 and args.temperature > 0:
        raise ValueError("--num-beams above 1 needs --temperature 0: beam search knows no chance")
    if args.token_budget is not None and args.compress == "none":
        raise ValueError("--token-budget needs a way to keep to it: give --compress")
    for name in ("history_layout", "history_tolerance"):
        if getattr(args, name) is not None and args.compress != "history":
            raise ValueError(f"--{name.replace('_', '-')} is about --compress history: give that")
    if args.layer_keep is not None:
        make_layer_keep(args)
        if args.prefill != "exact":
            raise ValueError("--layer-keep reads every prompt afresh: drop --prefill bounded")
    if args.compress != "none" and args.history:
        raise ValueError(
            "--history shows whole frames, which --compress replaces: give one of the two"
        )
    if args.prefill_refresh is not None and args.prefill == "exact":
        raise ValueError("--prefill-refresh is about --prefill bounded: give that")


def check_differential_options(args: argparse.Namespace) -> None:
    """Raises ValueError if options say how to leave out what another one forbids to leave out."""
    given = [
        flag
        for flag, is_given in (
            ("--policy", args.policy is not None),
            ("--diff-threshold", args.diff_threshold is not None),
            ("--diff-max-changed-patches", args.diff_max_changed_patches is not None),
            ("--diff-patch-size", args.diff_patch_size is not None),
            ("--diff-skip-small", args.diff_skip_small is not None),
            ("--prefill", args.prefill != "exact"),
            ("--prefill-refresh", args.prefill_refresh is not None),
            ("--prefill-tolerance", args.prefill_tolerance != 0),
            ("--benchmark", args.benchmark),
        )
        if is_given
    ]
    if args.disable_differential and given:
        raise ValueError(f"--disable-differential leaves nothing out: drop it or {given[0]}")
    check_answer_options(args)


def load_model(args: argparse.Namespace, *, language: bool) -> dv.Model:
    """The model that the options ask for.

    Raises:
      ValueError: there is none.
    """
    import diffvis_jax as dv

    directory = find_model(args.model, language=language)
    model = dv.load(directory, dtype=args.dtype, decode_dtype=args.decode_dtype)
    model = with_bounds(model, args)
    if args.force_pad_aspect:
        if has_sizes(model) or model.config.preprocess.pinpoints:
            raise ValueError(f"--force-pad-aspect: {model.name} takes images in their own shape")
        model = dataclasses.replace(
            model, config=dataclasses.replace(model.config, resize_mode="pad")
        )
    return model


def make_policy(args: argparse.Namespace, model: dv.Model) -> dv.Policy:
    """The policy that the options ask for.

    Raises:
      ValueError: there is none; a patch size that is not the tower's.
    """
    import diffvis_jax as dv
    from diffvis_jax.towers import build

    tower = build(model.config)
    if args.diff_patch_size not in (None, tower.patch):
        raise ValueError(
            f"--diff-patch-size: the patches of {model.name} are {tower.patch} pixels wide, since "
            f"a token is what is recomputed; got {args.diff_patch_size}"
        )
    chosen = {
        name: value
        for name, value in (
            ("change_threshold", args.diff_threshold),
            ("max_changed_patches", args.diff_max_changed_patches),
            ("skip_small_patches", args.diff_skip_small),
        )
        if value is not None
    }
    named = find_policy(args.policy) if args.policy else dv.Policy()
    policy = dataclasses.replace(named, **chosen)
    policy.margins(tower)
    return policy


def make_prefill(args: argparse.Namespace) -> dv.PrefillPolicy:
    """What a prefill may leave out."""
    import diffvis_jax as dv

    if args.prefill == "exact":
        named = dv.PrefillPolicy.exact()
    elif args.prefill_refresh is None:
        named = dv.PrefillPolicy.approximate()
    else:
        named = dv.PrefillPolicy.approximate(args.prefill_refresh)
    return dataclasses.replace(named, tolerance=args.prefill_tolerance)


def make_compression(args: argparse.Namespace) -> Any:
    """The `CompressOptions` that the options ask for."""
    from diffvis_jax.agent.prompt_tokens import CompressOptions
    from diffvis_jax.compress import HistoryPolicy

    policy = None
    if args.history_tolerance is not None:
        policy = HistoryPolicy(tolerance=args.history_tolerance)
    return CompressOptions(
        args.compress, args.token_budget, args.history_layout or "changes", policy
    )


def make_layer_keep(args: argparse.Namespace) -> Any:
    """The `LayerKeep` that the options ask for; None = none."""
    from diffvis_jax.language.layer_keep import LayerKeep

    if args.layer_keep is None:
        return None
    parts = len(args.layer_keep) + 1
    return LayerKeep(tuple(n / parts for n in range(1, parts)), tuple(args.layer_keep))


def make_question(args: argparse.Namespace, model: dv.Model) -> str:
    """The prompt, with the instructions of its style."""
    from diffvis_jax.agent.commands import command_prompt

    if args.prompt_style == "pyautogui":
        return command_prompt(args.prompt, make_space(args, model))
    return args.prompt


def make_space(args: argparse.Namespace, model: dv.Model) -> Any:
    """What the coordinates in commands are measured in; None = as they are written."""
    if args.coordinates is None:  # Qwen2.5-VL writes pixels of the image that it was shown
        return "input" if has_sizes(model) else None
    return None if args.coordinates == "as-written" else args.coordinates


def answerer_options(args: argparse.Namespace, model: dv.Model) -> dict[str, Any]:
    """The keywords of an `Answerer`."""
    import diffvis_jax as dv

    return {
        "conversation": args.conv_mode,
        "numbered": args.add_vision_id,
        "policy": make_policy(args, model),
        "prefill": make_prefill(args),
        "history": args.history,
        "compress": make_compression(args),
        "layer_keep": make_layer_keep(args),
        "options": dv.AnswerOptions(
            max_new_tokens=args.max_new_tokens,
            temperature=args.temperature,
            top_p=args.top_p,
            num_beams=args.num_beams,
            seed=args.seed,
            repetition_penalty=args.repetition_penalty,
        ),
    }
