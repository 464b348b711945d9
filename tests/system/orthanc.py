"""A real Orthanc on the loopback interface, with a forwarding rule as administrators write it."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dicomnode.selftest.temporary import free_port
from tests.real_parts import require_file, require_program
from tests.system.node import AE_TITLE, wait_for

AE = "ORTHANC"
DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
"""Where Debian's orthanc-dicomweb puts it."""

FORWARD_STABLE_STUDIES = """
function OnStableStudy(studyId, tags, metadata)
  RestApiPost('/modalities/NODE/store',
    DumpJson({Resources = {studyId}, Asynchronous = true, Permissive = true}, true))
end
"""


@dataclass
class Orthanc:
    """One server with its storage in `folder`."""

    folder: Path
    node_port: int
    stable_age_s: int = 3
    forward: bool = True
    dicomweb: bool = False
    dicom_port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> Orthanc:
        program = require_program("Orthanc")
        self.folder.mkdir(parents=True, exist_ok=True)
        configuration: dict[str, Any] = {
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "Plugins": [require_file(DICOMWEB_PLUGIN)] if self.dicomweb else [],
            "DicomWeb": {"Enable": self.dicomweb, "StudiesMetadata": "Full", "SeriesMetadata": "Full"},
            "DicomAet": AE,
            "DicomPort": self.dicom_port,
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "StableAge": self.stable_age_s,
            "DicomModalities": {
                "NODE": {
                    "AET": AE_TITLE,
                    "Host": "127.0.0.1",
                    "Port": self.node_port,
                    "AllowStorageCommitment": True,
                }
            },
        }
        if self.forward:
            (self.folder / "forward.lua").write_text(FORWARD_STABLE_STUDIES)
            configuration["LuaScripts"] = [str(self.folder / "forward.lua")]
        (self.folder / "orthanc.json").write_text(json.dumps(configuration))
        log = (self.folder / "orthanc.log").open("ab")
        # Without TCP_NODELAY the toolkit inside Orthanc waits 40 ms for every object.
        self.process = subprocess.Popen(
            [program, str(self.folder / "orthanc.json")],
            stdout=log,
            stderr=log,
            env={**os.environ, "TCP_NODELAY": "1"},
        )
        wait_for(self._is_up, "Orthanc answers", 120)
        return self

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(120)

    def upload(self, paths: list[Path]) -> None:
        for path in paths:
            self._request("/instances", path.read_bytes())

    def instances(self, study_instance_uid: str, modality: str) -> list[dict[str, Any]]:
        """Simplified tags and Orthanc ids of the study's instances of one modality."""
        found = self.post(
            "/tools/find",
            {
                "Level": "Instance",
                "Expand": False,
                "Query": {"StudyInstanceUID": study_instance_uid, "Modality": modality},
            },
        )
        return [{"id": name, **self.get(f"/instances/{name}/simplified-tags")} for name in found]

    def download(self, orthanc_id: str, path: Path) -> Path:
        path.write_bytes(self._request(f"/instances/{orthanc_id}/file"))
        return path

    def get(self, route: str) -> Any:
        return json.loads(self._request(route))

    def post(self, route: str, body: Any) -> Any:
        return json.loads(self._request(route, json.dumps(body).encode()))

    def delete(self, route: str) -> None:
        self._request(route, method="DELETE")

    def _is_up(self) -> bool:
        try:
            self.get("/system")
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
            return False
        return True

    def _request(self, route: str, body: bytes | None = None, method: str | None = None) -> bytes:
        url = f"http://127.0.0.1:{self.http_port}{route}"
        request = urllib.request.Request(url, body, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            content: bytes = answer.read()
        return content
