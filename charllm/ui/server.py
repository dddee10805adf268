"""The web server around the page: which hosts it answers, what the browser may load, the language.

The page is mounted in an application of our own, so that one port serves the page and, later, an
API. No request leaves the machine: fonts, scripts and plots are served from here.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from charllm.data.config import Config, Paths
from charllm.data.errors import UserError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

STATIC = Path(__file__).with_name("static")
FIRST = ("stream.js", "quiet.js")
SCRIPTS = (
    *("board.js", "table.js", "roweditor.js", "grid.js", "steps.js", "histogram.js"),
    *("form.js", "curves.js", "evaluate.js", "desk.js", "mixer.js", "page.js"),
)
PLOTLY = ("plotly", "package_data")
"""Where plotly.js lies; the page loads it when it has curves to draw."""
MAX_UPLOAD = "64mb"
"""More than any card may have, so that a card that is too large is refused in our own words."""
CSP = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "frame-src 'none'",
        "object-src 'none'",
        "form-action 'self'",
        "base-uri 'self'",
        "frame-ancestors 'none'",
    ]
)


class ServerSettings(Config):
    """Where the dashboard listens. ``host`` other than loopback needs ``CHARLLM_PASSWORD``.

    ``prepare``: convert the embedded model in the background if that has not been done.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    prepare: bool = True


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def password_check(host: str) -> Callable[[str, str], bool] | None:
    """The login for addresses other than loopback; ``UserError`` if no password is set for one.

    The password is kept only as a salted hash; each failure delays the next answer (at most 8 s).
    """
    if is_loopback(host):
        return None
    password = os.environ.pop("CHARLLM_PASSWORD", "")
    if len(password) < 8:
        raise UserError(
            f"Listening on {host} lets other machines in: set CHARLLM_PASSWORD (8 characters or "
            "more) first, or use 127.0.0.1.",
            f"{host} で待ち受けると他の機器からも使えます。先に CHARLLM_PASSWORD（8文字以上）を"
            "設定するか、127.0.0.1 を使ってください。",
        )
    salt = os.urandom(16)
    stored = _hash(password, salt)
    failures = 0

    def check(user: str, attempt: str) -> bool:
        nonlocal failures
        if hmac.compare_digest(_hash(attempt, salt), stored):
            failures = 0
            return True
        failures += 1
        time.sleep(min(8.0, 0.5 * 2**failures))
        return False

    return check


def _hash(password: str, salt: bytes) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 200_000)


class Guard:
    """Pure ASGI: refuses foreign Host headers and adds the security headers to every answer.

    A Host header of another name means that some web page has pointed its own name at this
    machine; on loopback only loopback names are answered.
    """

    def __init__(self, app: App, host: str) -> None:
        self.app = app
        self.loopback_only = is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        name = re.sub(r":\d+$", "", headers.get(b"host", b"").decode("latin-1")).strip("[]")
        if self.loopback_only and not is_loopback(name):
            await _refuse(send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", CSP.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                ]
            await send(message)

        await self.app(scope, receive, guarded)


async def _refuse(send: Send) -> None:
    await send({"type": "http.response.start", "status": 421, "headers": []})
    await send({"type": "http.response.body", "body": b"charllm answers on loopback names only.\n"})


class FirstScripts:
    """Puts our scripts into the page's head, so that they run before Gradio's own.

    Gradio translates by ``navigator.language`` alone: the language switch's choice comes first.
    stream.js and quiet.js change what Gradio works with while it builds the page. The others are
    what the page's components call; Gradio itself would load them only once the page is there, when
    a visitor in a hurry has opened a tab that asks for them.
    """

    SCRIPT = (
        b"<script>(()=>{const c=document.cookie.match(/charllm_lang=(ja|en)/);"
        b"const l=c?c[1]:((navigator.language||'en').toLowerCase().startsWith('ja')?'ja':'en');"
        b"if(!c)document.cookie='charllm_lang='+l+';path=/;max-age=31536000;samesite=lax';"
        b"for(const[k,v]of[['language',l],['languages',[l]]])"
        b"Object.defineProperty(navigator,k,{get:()=>v});"
        b"document.documentElement.lang=l;window.charllmLanguage=l;"
        b"const d=localStorage.getItem('charllm_theme');"
        b"if(d){const u=new URL(location);"
        b"u.searchParams.set('__theme',d);history.replaceState(null,'',u)}})();</script>"
    )

    def __init__(self, app: App) -> None:
        self.app = app
        tags = [*map(_tag, FIRST), *(_tag(name, "defer ") for name in SCRIPTS)]
        self.scripts = self.SCRIPT + "".join(tags).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/" or scope["method"] != "GET":
            await self.app(scope, receive, send)
            return
        # The page must arrive uncompressed to be changed.
        scope = {**scope, "headers": [h for h in scope["headers"] if h[0] != b"accept-encoding"]}
        start: Message = {}
        body = b""

        async def collect(message: Message) -> None:
            nonlocal body
            if message["type"] == "http.response.start":
                start.update(message)
                return
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            page = body.replace(b"<head>", b"<head>" + self.scripts, 1)
            start["headers"] = [
                (k, str(len(page)).encode() if k.lower() == b"content-length" else v)
                for k, v in start["headers"]
            ]
            await send(start)
            await send({"type": "http.response.body", "body": page})

        await self.app(scope, receive, collect)


def create_app(paths: Paths, settings: ServerSettings) -> App:
    """The whole application, ready for uvicorn."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ.setdefault("GRADIO_TEMP_DIR", str(paths.workspace / "uploads"))
    auth = password_check(settings.host)
    import gradio as gr
    from fastapi import FastAPI
    from fastapi.staticfiles import StaticFiles

    from charllm.services import jobs
    from charllm.ui import words
    from charllm.ui.dashboard import build
    from charllm.ui.theme import theme

    if settings.prepare:
        jobs.prepare_embedded(paths)
    jobs.start_scheduler(paths, threading.Event())
    outer = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    outer.mount("/charllm-static", StaticFiles(directory=STATIC), name="charllm-static")
    outer.mount("/charllm-plotly", StaticFiles(packages=[PLOTLY]), name="charllm-plotly")
    demo = build(paths)
    demo.queue(default_concurrency_limit=16, max_size=64)
    gr.mount_gradio_app(
        outer,
        demo,
        path="/",
        server_name=settings.host,
        server_port=settings.port,
        auth=auth,
        allowed_paths=[str(paths.workspace / "exports")],
        show_error=False,
        max_file_size=MAX_UPLOAD,
        ssr_mode=False,
        enable_monitoring=False,
        run_history=False,
        footer_links=[],
        i18n=words.tables(),
        theme=theme(),
        css_paths=[STATIC / "style.css"],
    )
    return Guard(FirstScripts(outer), settings.host)


def _tag(name: str, when: str = "") -> str:
    """A script of ours, with the hash of its content: a cache never hides an update."""
    version = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f'<script {when}src="/charllm-static/{name}?{version}"></script>'
