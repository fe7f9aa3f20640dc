"""A browser: what Chromium, which comes with Qt, makes of a page that lies on disk.

Runs as a program of its own, so that Qt's threads and signals stay out of the tests' process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

_TIMEOUT = 90

_HEIGHT = 900  # pixels
_LOOK = """JSON.stringify({
  images: [...document.images].map(image => image.complete ? image.naturalWidth : 0),
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  text: document.body.innerText,
})"""


class Page(NamedTuple):
    """A page, once it is loaded.

    Attributes:
      console: every message on the console.
      requests: the address of everything that was asked for.
      images: widths in pixels, 0 for one that is broken.
      overflow: pixels by which the page is wider than its window.
      text: as displayed.
    """

    console: list[str]
    requests: list[str]
    images: list[int]
    overflow: int
    text: str


def open_page(path: Path, *, width: int, ready: str = "true", picture: Path | None = None) -> Page:
    """Opens a page in a window of a width; skips the test where there is no browser to open it.

    Looks at it once the expression `ready` is true there, and keeps a picture of it if asked to.
    """
    environment = {
        **os.environ,
        "QT_QPA_PLATFORM": "offscreen",
        "QTWEBENGINE_DISABLE_SANDBOX": "1",
        # WebGL without a graphics card.
        "QTWEBENGINE_CHROMIUM_FLAGS": "--use-gl=angle --use-angle=swiftshader "
        "--enable-unsafe-swiftshader --ignore-gpu-blocklist",
    }
    command = [sys.executable, __file__, str(path), str(width), ready, str(picture or "")]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=_TIMEOUT)
    if done.returncode == 3:
        pytest.skip(f"no browser: {done.stderr.decode().strip()}; pip install PySide6-WebEngine")
    assert done.returncode == 0, done.stderr.decode()
    return Page(**json.loads(done.stdout))


def _main(path: str, width: str, ready: str, picture: str) -> None:
    try:
        from PySide6.QtCore import QTimer, QUrl
        from PySide6.QtWebEngineCore import (
            QWebEnginePage,
            QWebEngineProfile,
            QWebEngineSettings,
            QWebEngineUrlRequestInterceptor,
        )
        from PySide6.QtWebEngineWidgets import QWebEngineView
        from PySide6.QtWidgets import QApplication
    except ImportError as error:
        print(error, file=sys.stderr)
        sys.exit(3)

    console: list[str] = []
    requests: list[str] = []

    class Observer(QWebEngineUrlRequestInterceptor):
        def interceptRequest(self, info):
            address = info.requestUrl()
            requests.append(address.toString())
            info.block(not address.isLocalFile())

    class ObservedPage(QWebEnginePage):
        def javaScriptConsoleMessage(self, level, message, line, source):
            console.append(f"{source}:{line}: {message}")

    def report(seen: str) -> None:
        print(json.dumps({"console": console, "requests": requests, **json.loads(seen)}))
        app.quit()

    app = QApplication(sys.argv[:1])
    profile = QWebEngineProfile()
    observer = Observer()
    profile.setUrlRequestInterceptor(observer)
    page = ObservedPage(profile)
    # Else a page on disk could not even ask for what the observer is there to see.
    remote = QWebEngineSettings.WebAttribute.LocalContentCanAccessRemoteUrls
    page.settings().setAttribute(remote, True)
    view = QWebEngineView()
    view.setPage(page)
    view.resize(int(width), _HEIGHT)
    view.show()

    def look(is_ready: object) -> None:
        if not is_ready:
            QTimer.singleShot(200, ask)
            return
        QTimer.singleShot(1000 if picture else 0, finish)  # what is ready is not yet painted

    def finish() -> None:
        if picture:
            view.grab().save(picture)
        page.runJavaScript(_LOOK, 0, report)

    def ask() -> None:
        page.runJavaScript(f"Boolean({ready})", 0, look)

    page.loadFinished.connect(lambda _: ask())
    page.load(QUrl.fromLocalFile(path))
    app.exec()
    # Qt may crash where a profile goes before its page, and Python drops the older first.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    _main(*sys.argv[1:])
