"""The OHIF viewer, served beside the DICOMweb interface of an Orthanc, as hospitals run it."""

from __future__ import annotations

import json
import mimetypes
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

VERSION = "3.13.2"
BUILT = Path(__file__).parents[2] / ".cache" / "ohif" / VERSION / "dist"
"""Where `deploy/install-test-programs` puts the built viewer."""

DICOMWEB = "/dicom-web"
PASSED_ON = ("Accept", "Content-Type")

CONFIGURATION = {
    "routerBasename": "/",
    "extensions": [],
    "modes": [],
    "customizationService": {},
    "showStudyList": True,
    "maxNumberOfWebWorkers": 2,
    "showWarningMessageForCrossOrigin": False,
    "showCPUFallbackMessage": False,
    "strictZSpacingForVolumeViewport": True,
    "investigationalUseDialog": {"option": "never"},
    "defaultDataSourceName": "dicomweb",
    "dataSources": [
        {
            "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
            "sourceName": "dicomweb",
            "configuration": {
                "friendlyName": "Orthanc",
                "name": "orthanc",
                "qidoRoot": DICOMWEB,
                "wadoRoot": DICOMWEB,
                "qidoSupportsIncludeField": True,
                "imageRendering": "wadors",
                "thumbnailRendering": "wadors",
                "enableStudyLazyLoad": True,
                "supportsFuzzyMatching": False,
                "supportsWildcard": True,
                "omitQuotationForMultipartRequest": True,
                "bulkDataURI": {"enabled": True},
            },
        }
    ],
}


@contextmanager
def served(orthanc_http_port: int, port: int, built: Path = BUILT) -> Iterator[str]:
    """The viewer at a loopback address, which is returned, for as long as the context lasts."""

    class Handler(_Handler):
        folder = built
        orthanc = f"http://127.0.0.1:{orthanc_http_port}"

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """Files of the built viewer; what begins with `DICOMWEB` goes to Orthanc, under the same origin."""

    protocol_version = "HTTP/1.1"
    folder: Path
    orthanc: str

    def do_GET(self) -> None:
        if self.path.startswith(DICOMWEB):
            self._pass_on()
        elif self.path == "/app-config.js":
            self._answer(200, "text/javascript", f"window.config = {json.dumps(CONFIGURATION)};".encode())
        else:
            self._file(self.path.split("?")[0].lstrip("/"))

    def _file(self, name: str) -> None:
        """A file of the viewer; any other address is one of its own pages."""
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder.resolve()) or not path.is_file():
            path = self.folder / "index.html"
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        self._answer(200, kind, path.read_bytes())

    def _pass_on(self) -> None:
        headers = {name: value for name in PASSED_ON if (value := self.headers.get(name))}
        # Orthanc writes the addresses of its answers from these: they must be those of this server.
        headers["Host"] = self.headers["Host"]
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self.orthanc + self.path, headers=headers), timeout=60
            ) as answer:
                self._answer(answer.status, answer.headers["Content-Type"], answer.read())
        except urllib.error.HTTPError as error:
            self._answer(error.code, "text/plain", error.read())

    def _answer(self, status: int, kind: str | None, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind or "application/octet-stream")
        self.send_header("Content-Length", str(len(content)))
        # Shared memory of the viewer's workers asks for isolation.
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: the browser tells what went wrong."""
