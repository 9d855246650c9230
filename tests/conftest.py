"""Settings for all tests. JAX must hear of them before it starts."""

import gc
import importlib
import os
import shutil
import sys
from pathlib import Path

import jax
import pytest
from hypothesis import HealthCheck, settings

# Several CPU devices, so that sharding is tested for what it is.
jax.config.update("jax_num_cpu_devices", 4)

MOST_MAPS = 30_000  # of memory, after a module; see room_for_programs

settings.register_profile(
    "diffvis",
    deadline=None,  # an example may be the one that compiles
    derandomize=True,
    database=None,
    max_examples=10,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("diffvis")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "cache"):  # not with `-p no:cacheprovider`
        share_programs(config.cache.mkdir("xla"))
    # JAX warns of donated buffers it could not use, and of silent casts: both are bugs here.
    config.addinivalue_line("filterwarnings", "error")
    # A restore that failed may leave TensorStore reads behind: they end after Orbax has closed the
    # loop that waited for them, in whatever test runs then.
    ignored = "ignore:(?s).*Event loop is closed:pytest.PytestUnraisableExceptionWarning"
    config.addinivalue_line("filterwarnings", ignored)


def share_programs(folder: Path) -> None:
    """Compiled programs are kept in .pytest_cache: the processes of one run share them, and the
    next run has them already. `pytest --cache-clear` forgets them."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:  # somebody's own choice
        return
    import filelock  # noqa: F401  # with a bound JAX locks the folder, for which it needs this

    for name, value in {
        "jax_compilation_cache_dir": str(folder),
        # Bytes, of some runs. JAX looks at every entry before it adds one, so few are better.
        "jax_compilation_cache_max_size": 2**27,
    }.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)  # for scripts that tests start


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`kit` means: with each of the tiny towers. FastViTHD has sixteen kinds of layers to compile,
    the toy the same kinds of work in eight."""
    if "kit" in metafunc.fixturenames:
        slow = [
            pytest.param(name, marks=pytest.mark.slow) for name in ("qwen", "stem", "fastvithd")
        ]
        thorough = pytest.param("odd", marks=pytest.mark.thorough)
        kits = ["toy", "clip", *slow, thorough]
        metafunc.parametrize("kit", kits, indirect=True, scope="session")


@pytest.fixture(scope="session")
def kit(request: pytest.FixtureRequest):
    """One tiny tower with parameters and compiled functions."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def toy():
    """56 x 72 px: 4 x 5 patches, of which the last reach beyond the frame; 7 x 9 tokens."""
    from tiny import Kit
    from toy import ToyConfig

    return Kit(ToyConfig())


@pytest.fixture(scope="session")
def square():
    """The same tower at 72 x 72 px, which is what `dv.preprocess` makes of pictures for it: 5 x 5
    patches, 9 x 9 tokens."""
    from tiny import Kit
    from toy import ToyConfig

    return Kit(ToyConfig(height=72))


@pytest.fixture(scope="session")
def fastvithd():
    """256 px: 4 x 4 tokens, cells fit the frame."""
    from tiny import FASTVITHD, Kit

    return Kit(FASTVITHD)


@pytest.fixture(scope="session")
def odd():
    """200 px: 4 x 4 tokens, the last cells of every map reach beyond the frame."""
    from tiny import ODD, Kit

    return Kit(ODD)


@pytest.fixture(scope="session")
def clip():
    """36 px in patches of 8: 4 x 4 tokens and the class token; 4 px are not seen."""
    from tiny import CLIP, Kit

    return Kit(CLIP)


@pytest.fixture(scope="session")
def qwen():
    """56 x 72 px: 4 x 5 windows of 16 px, the last of them partial; 7 x 9 tokens."""
    from tiny import QWEN, Kit

    return Kit(QWEN)


@pytest.fixture(scope="session")
def stem():
    """112 x 144 px: 4 x 5 windows of 32 px after a convolutional patch embedding, the last of them
    partial; 7 x 9 tokens."""
    from tiny import STEM, Kit

    return Kit(STEM)


@pytest.fixture(scope="session")
def grounding_model():
    """A tiny tower with a head: random answers, but enough of them to compare."""
    from tiny import FASTVITHD, random_head, random_params

    import diffvis_jax as dv
    from diffvis_jax.grounding.find import Head
    from diffvis_jax.grounding.head import HeadConfig

    width = FASTVITHD.widths[3]
    config = HeadConfig(token_width=FASTVITHD.token_width, map_width=width, hidden=8)
    params = random_head(config)
    params["answers"]["bias"] = params["answers"]["bias"] + 4.0
    return dv.Model(FASTVITHD, random_params(FASTVITHD), "random", Head(config, params))


@pytest.fixture(scope="session")
def training():
    """Imports a module of scripts/training, which is no package, by its name."""
    folder = str(Path(__file__).resolve().parents[1] / "scripts" / "training")
    sys.path.insert(0, folder)
    yield importlib.import_module
    sys.path.remove(folder)


@pytest.fixture(scope="session")
def script():
    """Imports a module of `diffvis_jax.cli`, or of a folder of scripts/, by its name."""
    root = Path(__file__).resolve().parents[1] / "scripts"
    folders = [root / "benchmarks", root / "examples"]
    sys.path[:0] = map(str, folders)

    def load(name):
        is_script = any((folder / f"{name}.py").exists() for folder in folders)
        return importlib.import_module(name if is_script else f"diffvis_jax.cli.{name}")

    yield load
    for folder in folders:
        sys.path.remove(str(folder))


@pytest.fixture
def compilations():
    """Counts compilations from here on."""
    events, ended = [], []

    def listen(event, duration, **_):
        if not ended and event == "/jax/core/compile/backend_compile_duration":
            events.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    ended.append(True)  # JAX 0.8 has no public way to take a listener back


@pytest.fixture(autouse=True, scope="module")
def room_for_programs():
    """Compiled programs stay mapped into memory, some ten maps each, and XLA aborts when a process
    has as many as Linux allows (65 530). So they are forgotten now and then; what is still needed
    is compiled again."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


# Of each module anew: while Playwright runs, nothing else in the thread can use asyncio.
@pytest.fixture(scope="module")
def browser():
    """A Chromium without a window."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine")
    sync_api = pytest.importorskip("playwright.sync_api")
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=options)
        yield browser
        browser.close()
