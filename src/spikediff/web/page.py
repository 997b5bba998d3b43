"""The page: gradio components, drawings and uploads, and the server with its limits."""

import os
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from html import escape
from inspect import isgeneratorfunction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from spikediff.data.decoding import BLACK, decode_image
from spikediff.errors import UserError, import_extra
from spikediff.web.studio import MOST_SEED, OWN, Studio, Wish
from spikediff.web.views import BLANK, STYLE, generation, several

_MOST_WAITING = 64  # requests in the queue
_CANVAS = 336  # pixels, about
_OLDEST_S = 3600  # a drawing that was sent is removed after an hour
_RED, _WHITE, _BLACK = "#ff0000", "#ffffff", "#000000"
# A browser that asked elsewhere for a font, a script or a picture would not get it.
_FROM_HERE = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; worker-src 'self' blob:"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]


def build(studios: Sequence[Studio]) -> Any:
    """Return the page of a model, with a second model for comparison."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    gr = import_extra("gradio", "demo")
    first = studios[0]
    with gr.Blocks(
        title="spikediff", analytics_enabled=False, delete_cache=(_OLDEST_S, _OLDEST_S)
    ) as page:
        gr.Markdown(
            f"# spikediff\nThe spiking diffusion model **{escape(first.name)}**: "
            "from noise to a picture, its spikes, and what the picture costs."
        )
        with gr.Tab("Generate"):
            _generate_tab(gr, first)
        with gr.Tab("Inpaint"):
            _inpaint_tab(gr, first)
        if len(studios) > 1:
            with gr.Tab("Compare"):
                _compare_tab(gr, studios)
    page.queue(max_size=_MOST_WAITING, default_concurrency_limit=1, api_open=False)
    return page


def _generate_tab(gr: Any, studio: Studio) -> None:
    def generate(label: int, seed: int, sampler: str, steps: int, energy: bool) -> Iterator[str]:
        wish = Wish(seed, label, sampler, steps)
        yield from map(generation, studio.generate(wish, energy=energy))

    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            label, seed = _class(gr, studio), _seed(gr)
            sampler = gr.Dropdown(studio.samplers, value=OWN, label="Sampler")
            steps = _steps(gr, studio)
            energy = gr.Checkbox(True, label="Measure the energy of the image")
            button = gr.Button("Generate", variant="primary", elem_id="generate")
        with gr.Column(scale=3, min_width=320):
            shown = gr.HTML(BLANK, elem_id="generated")
    _on_click(gr, button, generate, [label, seed, sampler, steps, energy], shown)


def _inpaint_tab(gr: Any, studio: Studio) -> None:
    side = studio.size * max(1, _CANVAS // studio.size)
    example = studio.example()

    def as_canvas(picture: Image.Image) -> dict[str, Any]:
        large = picture.convert("RGB").resize((side, side), Image.Resampling.NEAREST)
        return {"background": large, "layers": [], "composite": large}

    def upload(encoded: bytes) -> dict[str, Any]:
        return as_canvas(read_upload(encoded, studio.size, studio.mode, example))

    def inpaint(canvas: Any, label: int, seed: int, steps: int) -> Iterator[str]:
        if not canvas or canvas.get("composite") is None:
            raise UserError("there is no picture; draw one, or upload one")
        drawn = read_drawing(canvas["composite"], canvas["layers"] or (), studio.size, studio.mode)
        wish = Wish(seed, label, steps=steps, count=4)
        yield from (several(moment, seed) for moment in studio.inpaint(wish, *drawn))

    gr.Markdown(
        "Draw in white, or upload a picture. Then paint **red** over what is to be made anew; "
        "the rest stays bit for bit."
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=320):
            canvas = gr.ImageEditor(
                as_canvas(example),
                sources=(),
                transforms=(),
                layers=False,
                format="png",
                canvas_size=(side, side),
                fixed_canvas=True,
                height=side + 64,
                show_label=False,
                buttons=[],
                brush=gr.Brush(
                    default_size=side // 12,
                    colors=[_RED, _WHITE, _BLACK],
                    default_color=_RED,
                    color_mode="fixed",
                ),
                elem_id="canvas",
            )
            with gr.Row():
                empty = gr.Button("Empty", size="sm", min_width=80)
                again = gr.Button("Example", size="sm", min_width=80)
                file = gr.UploadButton(
                    "Upload", type="binary", file_types=["image"], size="sm", min_width=80
                )
        with gr.Column(scale=1, min_width=320):
            label, seed, steps = _class(gr, studio), _seed(gr), _steps(gr, studio)
            button = gr.Button("Inpaint", variant="primary", elem_id="inpaint")
            shown = gr.HTML(BLANK, elem_id="inpainted")
    blank = partial(Image.new, studio.mode, (studio.size, studio.size))
    quiet = {"outputs": canvas, "show_progress": "hidden", "api_visibility": "private"}
    empty.click(lambda: as_canvas(blank()), None, **quiet)
    again.click(lambda: as_canvas(example), None, **quiet)
    file.upload(_refusing(gr, upload), file, **quiet)
    _on_click(gr, button, inpaint, [canvas, label, seed, steps], shown)


def _compare_tab(gr: Any, studios: Sequence[Studio]) -> None:
    def side(studio: Studio, label: int, seed: int, steps: int) -> Iterator[str]:
        wish = Wish(seed, label, steps=min(steps, studio.most_steps or 1), count=4)
        yield from (several(moment, seed) for moment in studio.generate(wish, spikes=False))

    def compare(*asked: int) -> Iterator[list[str]]:
        shown = [BLANK] * len(studios)
        for number, studio in enumerate(studios):
            for shown[number] in side(studio, *asked):
                yield list(shown)

    gr.Markdown("Two models, the same seeds.")
    with gr.Row():
        wanted = [_class(gr, studios[0]), _seed(gr), _steps(gr, studios[0])]
    button = gr.Button("Compare", variant="primary", elem_id="compare")
    with gr.Row():
        places = []
        for number, studio in enumerate(studios):
            with gr.Column(min_width=320):
                gr.Markdown(f"### {escape(studio.name)}, {studio.size} x {studio.size} pixels")
                places.append(gr.HTML(BLANK, elem_id=f"compared-{number}"))
    _on_click(gr, button, compare, wanted, places)


def _class(gr: Any, studio: Studio) -> Any:
    classes = list(range(studio.classes)) or [0]
    return gr.Dropdown(
        classes, value=classes[min(3, len(classes) - 1)], label="Class", visible=studio.classes > 0
    )


def _seed(gr: Any) -> Any:
    return gr.Number(1, label="Seed", precision=0, minimum=0, maximum=MOST_SEED)


def _steps(gr: Any, studio: Studio) -> Any:
    most = max(2, studio.most_steps)
    value = min(20, max(1, studio.most_steps))
    return gr.Slider(1, most, value, step=1, label="Steps", visible=studio.most_steps > 0)


def _on_click(gr: Any, button: Any, answer: Any, inputs: Any, outputs: Any) -> None:
    """Connect a button to a model; one request computes at a time, the others wait."""
    button.click(
        _refusing(gr, answer),
        inputs,
        outputs,
        concurrency_id="model",
        concurrency_limit=1,
        show_progress="minimal",
        api_name=answer.__name__,
    )


def _refusing(gr: Any, answer: Callable[..., Any]) -> Callable[..., Any]:
    """Return a handler whose errors are shown on the page."""

    @contextmanager
    def shown() -> Iterator[None]:
        try:
            yield
        except UserError as error:
            raise gr.Error(escape(str(error), quote=False), print_exception=False) from None

    @wraps(answer)
    def stepwise(*asked: Any) -> Iterator[Any]:
        with shown():
            yield from answer(*asked)

    return stepwise if isgeneratorfunction(answer) else shown()(answer)


class Limited:
    """An ASGI application that limits requests to `most` bytes; its pages load nothing else."""

    def __init__(self, app: Any, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            length = dict(scope["headers"]).get(b"content-length", b"")
            if not length.isdigit() or int(length) > self._most:
                status, what = (
                    (413, b"is too large") if length.isdigit() else (411, b"has no length")
                )
                await send({"type": "http.response.start", "status": status, "headers": []})
                await send({"type": "http.response.body", "body": b"the request " + what + b"\n"})
                return

        async def from_here(message: Scope) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", _FROM_HERE.encode())
                message["headers"] = [*message.get("headers", []), policy]
            await send(message)

        await self._app(scope, receive, from_here)


def application(studios: Sequence[Studio]) -> Any:
    """Return the page as an ASGI application."""
    gr = import_extra("gradio", "demo")
    page, fastapi = build(studios), import_extra("fastapi", "demo")
    app = gr.mount_gradio_app(
        fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page,
        path="/",
        max_file_size=MOST_BYTES,
        ssr_mode=False,
        show_error=False,
        enable_monitoring=False,
        theme=gr.themes.Default(
            font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        ),
        css=STYLE,
    )
    return Limited(app, 2 * MOST_BYTES)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens."""
    try:
        return socket.create_server((host, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--host {host} --port {port}: {reason}; choose another") from None


def serve(app: Any, listening: socket.socket) -> None:
    """Serve until the process is stopped."""
    uvicorn = import_extra("uvicorn", "demo")
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listening])


MOST_BYTES = 4 * 2**20  # of an upload
_REDDER = 96  # than green and blue is what marks a part
_SHARE = 64  # of 255: of a pixel that is marked


def read_upload(encoded: bytes, size: int, mode: str, like: Image.Image) -> Image.Image:
    """Return an uploaded picture in the form of the model's images: square, with its size and mode.

    It is cropped to its centre. Dark strokes on light paper become light on dark if `like`, an
    image of the model, is so.
    """
    if len(encoded) > MOST_BYTES:
        raise UserError(f"the file has more than {MOST_BYTES // 2**20} MB; upload a smaller one")
    picture = decode_image(encoded, "the upload", BLACK).convert(mode)
    picture = ImageOps.fit(picture, (size, size), Image.Resampling.BOX)
    if mode == "L" and (_border(picture) > 127) != (_border(like) > 127):
        return ImageOps.invert(picture)
    return picture


def _border(picture: Image.Image) -> float:
    """Return the median of the outermost pixels."""
    pixels = np.asarray(picture)
    edges = pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]
    return float(np.median(np.concatenate(edges)))


def read_drawing(
    composite: NDArray[Any], layers: Sequence[NDArray[Any]], size: int, mode: str
) -> tuple[Image.Image, Image.Image]:
    """Return the picture [size, size] of a canvas, and the mask of what is painted red.

    `composite` is the canvas [H, W, 3 or 4], `layers` what was drawn on its background, [H, W, 4]
    each.
    """
    red = np.zeros(composite.shape[:2], bool)
    for layer in layers:
        colours = layer[..., :3].astype(int)
        redder = colours[..., 0] - colours[..., 1:].max(-1) > _REDDER
        red |= redder & (layer[..., 3] >= 128)
    if not red.any():
        raise UserError("nothing is marked; paint red over the part to replace")
    kept = np.where(red[..., None], 0, composite[..., :3]).astype(np.uint8)
    shrunk = Image.fromarray((red * 255).astype(np.uint8)).resize(
        (size, size), Image.Resampling.BOX
    )
    picture = Image.fromarray(kept).convert(mode).resize((size, size), Image.Resampling.BOX)
    return picture, shrunk.point(lambda share: 255 * (share >= _SHARE))
