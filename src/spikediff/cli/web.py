"""`spikediff web [SOURCE]`: serve a web page that generates, inpaints and compares."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from spikediff.cli.arguments import Range
from spikediff.cli.options import Device, SourceFolder
from spikediff.pretrained import check_source


@dataclass(frozen=True)
class WebOptions:
    """Serve a web page with live generation, spikes, energy, inpainting and a comparison.

    The page needs the extra `demo` and loads nothing from other sites.
    """

    source: SourceFolder = Path("mnist")
    beside: Path | None = None
    """The model to compare with; by default a shipped model."""
    host: str = "127.0.0.1"
    """Address to listen on; by default only this machine, 0.0.0.0 for all that can reach it."""
    port: Annotated[int, Range(0, 65535)] = 7860
    """The port; 0 chooses a free one."""
    device: Device = "cpu"


def run(options: WebOptions) -> None:
    beside = options.beside or Path("digits" if options.source.name != "digits" else "mnist")
    check_source(beside)
    from spikediff.errors import import_extra

    import_extra("gradio", "demo")
    from spikediff.progress import waiting
    from spikediff.web.page import application, listen, serve
    from spikediff.web.studio import Studio

    listening = listen(options.host, options.port)
    app = application([Studio(source, options.device) for source in (options.source, beside)])
    host, port, *_ = listening.getsockname()
    print(f"spikediff web: http://{host}:{port} (Ctrl-C stops it)", flush=True)
    with waiting():
        serve(app, listening)
