"""Uploads, against a stand-in of the hub's interface on this machine."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from prune2vec.cli.app import main
from prune2vec.errors import ConfigError
from prune2vec.exporting.hub import check_push, push_folder
from tests.exporting.encoders import tiny_encoder


class Hub(ThreadingHTTPServer):
    """A hub that knows one token, and keeps what it was asked to make and what was committed."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.full = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.answer({"name": "me", "type": "user"} if self.path == "/api/whoami-v2" else None)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            told = json.loads(body)
            self.server.created.append(told)
            self.answer({"url": f"{self.server.url}/{told.get('organization') or 'me'}/{told['name']}"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.path.endswith("/preupload/main"):
            modes = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]
            ]
            self.answer({"files": modes})
        elif self.path.split("?")[0].endswith("/commit/main") and not self.server.full:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"success": True, "commitOid": "0" * 40, "commitUrl": f"{self.server.url}/me/e/commit/{'0' * 40}"})
        else:
            self.answer(None)

    def answer(self, content: Any) -> None:
        allowed = self.headers.get("Authorization") == "Bearer hf_right"
        body = json.dumps(content if allowed and content else {"error": "no"}).encode()
        self.send_response(401 if not allowed else 403 if content is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_right")
        yield server
        server.shutdown()
        thread.join()


def test_the_folder_is_uploaded_as_it_is_to_a_private_repository(hub: Hub, tmp_path: Path) -> None:
    written = {"README.md": b"# mine", "1_Pooling/config.json": b"{}", "model.safetensors": bytes(range(256)), ".record": b"x"}
    for name, content in written.items():
        (tmp_path / "e" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "e" / name).write_bytes(content)
    assert push_folder(tmp_path / "e", "me/e") == f"{hub.url}/me/e"
    assert hub.files == written
    assert [(told["name"], told["organization"], told["visibility"]) for told in hub.created] == [("e", "me", "private")]
    hub.full = True
    with pytest.raises(ConfigError, match=r"cannot upload to me/e: .*/e is whole: upload it with `hf upload me/e "):
        push_folder(tmp_path / "e", "me/e")


def test_an_export_is_uploaded(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_encoder(tmp_path, num_hidden_layers=1).save_pretrained(str(tmp_path / "encoder"), create_model_card=False)
    words = ["export", str(tmp_path / "encoder"), "--target", "vllm", "-o", str(tmp_path / "out"), "--push-to-hub", "small"]
    assert main([*words, "--dry-run"]) == 0 and not hub.created
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["hub"] == f"{hub.url}/me/small" and told["target"] == "vllm"
    written = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert hub.files == {file.relative_to(tmp_path / "out").as_posix(): file.read_bytes() for file in written}


def test_nothing_is_begun_without_a_token_that_the_hub_takes(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check_push("me/e")
    with pytest.raises(ConfigError, match="cannot upload to no/such/name: Repo id must be"):
        check_push("no/such/name")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ConfigError, match=r"cannot upload to me/e: .*nvalid"):
        check_push("me/e")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    for verb in (["prune", "smollm2", "6"], ["train", str(tmp_path), "--data", "docstrings"]):
        assert main([*verb, "-o", str(tmp_path / "out"), "--push-to-hub", "me/e"]) == 1
        error = capsys.readouterr().err
        assert "cannot upload to me/e: there is no token of the hub; log in" in error and error.count("\n") == 1
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set"):
        check_push("me/e")
    assert not (tmp_path / "out").exists() and not hub.created
