"""Serve the page: to this machine alone, with nothing of it going anywhere else.

Gradio would count visits, load fonts, and offer a public link; here it is told not to, and a policy in every answer
forbids the browser to ask any other address. What a browser sends goes into a folder that is gone when the page is
closed; of the disk, only the page's own folder can be asked for.
"""

import argparse
import os
import shutil
import tempfile
import time
from importlib.util import find_spec
from typing import Any

POLICY = (
    "default-src 'self' blob: data:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' blob: data:; font-src 'self' data:; "
    "connect-src 'self' blob: data:; worker-src 'self' blob:; frame-ancestors 'self'; "
    "form-action 'self'; base-uri 'self'"
)
QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "GRADIO_SHARE": "False",
    "GRADIO_RUN_HISTORY": "False",
    "DO_NOT_TRACK": "1",
}
LOCAL = "127.0.0.1"
ANY_PORT = range(7860, 7960)


def serve(arguments: argparse.Namespace, ready: Any = None) -> None:
    """Serve until Ctrl-C. ready: called with the address once the page answers. Raises ValueError without Gradio."""
    if find_spec("gradio") is None:
        raise ValueError("the page wants Gradio, which is not installed: pip install 'photoswap[web]'")
    uploads = tempfile.mkdtemp(prefix="photoswap-web-")
    os.environ.update(QUIET)  # before Gradio is imported, which reads them once
    os.environ["GRADIO_TEMP_DIR"] = uploads
    from .build import build_page
    from .uploads import MOST_BYTES, guard_decoders

    guard_decoders()
    blocks, look = build_page(arguments)
    try:
        _, address, _ = blocks.queue(max_size=64).launch(
            server_name=arguments.host,
            server_port=arguments.port,
            share=False,
            quiet=True,
            inbrowser=arguments.open,
            prevent_thread_lock=True,
            show_error=False,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            allowed_paths=[str(arguments.out.absolute())],
            max_file_size=MOST_BYTES,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            app_kwargs={"middleware": [policy()], "docs_url": None, "redoc_url": None, "openapi_url": None},
            **look,
        )
        if ready:
            ready(address)
        while True:
            time.sleep(1)
    finally:
        blocks.close(verbose=False)
        shutil.rmtree(uploads, ignore_errors=True)


def policy() -> Any:
    """Every answer forbids the browser to ask any other address, to be framed elsewhere, or to tell where it was."""
    from starlette.middleware import Middleware

    return Middleware(Guarded)


class Guarded:
    """An ASGI application with the policy's headers on every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"content-security-policy", POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        await self.app(scope, receive, guarded if scope["type"] == "http" else send)
