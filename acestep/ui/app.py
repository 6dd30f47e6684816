"""Builds the page, guards it and puts it on a port. Prints nothing and reads no environment."""

import html
import socket
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import TimeoutError as StillLoading
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import gradio as gr
from gradio.themes import Base, Default
from starlette.middleware import Middleware

from acestep.errors import AceStepError, PortBusy, Unavailable
from acestep.request import TASKS
from acestep.ui import DEFAULT_HOST, DEFAULT_PORT, api, tabs
from acestep.ui.actions import Actions
from acestep.ui.events import POLL_SECONDS, WATCHERS, Updates
from acestep.ui.guard import LOOPBACK_HOSTS, HostGuard, OriginGuard
from acestep.ui.tabs import Tab
from acestep.ui.worker import Service, Worker

PORTS_TRIED = 100  # from the default one up, when nobody named a port
MAX_UPLOAD = "256mb"
SHARE_DOMAIN = ".gradio.live"
CACHE_SWEEP, CACHE_AGE = 3600, 86_400  # seconds; uploads and copies for the player, not songs
HERE = Path(__file__).parent


@dataclass(frozen=True)
class RunningPage:
    """A page that is up at `url` until it is closed."""

    url: str
    blocks: gr.Blocks
    worker: Worker
    _closed: Event = field(default_factory=Event)

    def wait(self) -> None:
        """Block until another thread closes the page, or Ctrl+C does."""
        try:
            while not self._closed.wait(1.0):  # a bounded wait lets Windows deliver Ctrl+C
                pass
        finally:
            self.close()

    def close(self) -> None:
        """Free the port and cancel what runs."""
        self._closed.set()
        self.worker.close()
        self.blocks.close(verbose=False)


def build(service_provider: Callable[[], Service], output_dir: Path) -> gr.Blocks:
    """The page around a service that is loaded when the page is first opened or used."""
    return _page(Worker(service_provider, output_dir))


def launch(
    *,
    load_service: Callable[[], Service],
    output_dir: Path,
    host: str = DEFAULT_HOST,
    port: int | None = None,
    share: bool = False,
    auth: tuple[str, str] | None = None,
    allowed_hosts: Collection[str] = (),
    open_browser: bool = False,
) -> RunningPage:
    """Open the page on a port and load the service in the background.

    Args:
        port: None takes 7860 or, when that is busy, the next free one.
        auth: user and password; required as soon as others can reach the page.
        allowed_hosts: further names the page may be called by (a reverse proxy's, say).

    Raises:
        PortBusy: the named port is taken, or all of the default ones.
        Unavailable: the page would be open to others without a password.
    """
    if auth is None and (share or not _is_loopback(host)):
        raise Unavailable(
            "Others could reach this page and it has no password. Add --auth USER:PASSWORD."
        )
    output_dir = output_dir.resolve()
    output_dir.mkdir(parents=True, exist_ok=True)
    worker = Worker(load_service, output_dir)
    page = _page(worker)
    port = _free_port(host, port)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=share,
            auth=auth,
            inbrowser=open_browser,
            prevent_thread_lock=True,
            quiet=True,
            show_error=True,
            allowed_paths=[str(output_dir)],
            max_file_size=MAX_UPLOAD,
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            strict_cors=True,
            footer_links=["api", "settings"],
            theme=theme(),
            css_paths=HERE / "page.css",
            head=f"<script>{(HERE / 'page.js').read_text('utf-8')}</script>",
            app_kwargs={"middleware": guards(host, allowed_hosts, share=share)},
        )
    except OSError as error:
        if _is_free(host, port):
            raise
        # Another program took it between the look and the bind.
        raise PortBusy(f"Port {port} is in use. Choose another with --port.") from error
    worker.start()
    return RunningPage(page.share_url or page.local_url or "", page, worker)


def guards(host: str, allowed_hosts: Collection[str] = (), *, share: bool) -> list[Middleware]:
    """Who may be spoken to and who may speak, for a page bound to `host`."""
    names = [*LOOPBACK_HOSTS, host, *allowed_hosts, *([SHARE_DOMAIN] if share else [])]
    return [
        Middleware(HostGuard, allowed_hosts=names, allow_addresses=not _is_loopback(host)),
        Middleware(OriginGuard),
    ]


def theme() -> Base:
    """Gradio's own look with the system's fonts: nothing is fetched from elsewhere."""
    return Default(
        primary_hue="orange",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(  # the default's light greys are below the contrast that small text needs
        body_text_color_subdued="*neutral_600",
        block_info_text_color="*neutral_600",
        input_placeholder_color="*neutral_500",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
    )


def _page(worker: Worker) -> gr.Blocks:
    """Draw the page, then wire what is not a tab's own."""
    with gr.Blocks(
        title="ACE-Step 1.5", analytics_enabled=False, delete_cache=(CACHE_SWEEP, CACHE_AGE)
    ) as page:
        with gr.Row(elem_id="header"):
            gr.HTML("<h1>ACE-Step 1.5</h1>")
            status = gr.HTML(_status("Loading the model …"), elem_id="status")
        with gr.Row():
            with gr.Column(scale=3, min_width=320), gr.Tabs() as row:
                drawn = tuple(tabs.build(task) for task in TASKS.values())
            with gr.Column(scale=2, min_width=320, elem_id="side"):
                actions = Actions(drawn)
        actions.wire(row, worker)
        api.expose(worker)

        def show_service() -> Iterator[Updates]:
            yield from _watch_loading(worker, status, drawn)

        page.load(
            show_service,
            None,
            [status, *(part for tab in drawn for part in tab.components)],
            show_progress="hidden",
            concurrency_limit=WATCHERS,
            api_visibility="private",
        )
    return page.queue(max_size=20)


def _watch_loading(worker: Worker, status: gr.HTML, tabs: Iterable[Tab]) -> Iterator[Updates]:
    """Say that the service loads, then what it is, and fit the form to it."""
    loading = worker.start()
    yield {status: _status("Loading the model …")}
    while True:
        try:
            service = loading.result(timeout=POLL_SECONDS)
        except StillLoading:
            continue
        except AceStepError as error:
            yield {status: _status(f"Not ready. {error}")}
            return
        yield {
            status: _status(
                f"Ready · {service.model} · {service.device_name}", service.planner_engine
            ),
            **{
                part: update
                for tab in tabs
                for part, update in tab.suit(
                    service.preset, has_planner=service.has_planner
                ).items()
            },
        }
        return


def _status(words: str, planner: str = "") -> str:
    """What is loaded; below it, what plans the songs and on which engine."""
    lines = f'<p role="status">{html.escape(words)}</p>'
    return lines + (f'<p id="engine">Planner: {html.escape(planner)}</p>' if planner else "")


def _is_loopback(host: str) -> bool:
    return host.strip("[]").lower() in LOOPBACK_HOSTS


def _free_port(host: str, port: int | None) -> int:
    """The named port or, when none was named, the first free one from 7860 up."""
    candidates = (
        range(DEFAULT_PORT, DEFAULT_PORT + PORTS_TRIED) if port is None else range(port, port + 1)
    )
    for candidate in candidates:
        if _is_free(host, candidate):
            return candidate
    raise PortBusy(
        f"Port {port} is in use. Choose another with --port."
        if port is not None
        else f"Ports {DEFAULT_PORT}–{candidates[-1]} are all in use. Choose one with --port."
    )


def _is_free(host: str, port: int) -> bool:
    name = host.strip("[]")
    family = socket.AF_INET6 if ":" in name else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((name, port))
        except OSError:
            return False
    return True
