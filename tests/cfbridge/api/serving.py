"""A served API on a loop of its own, for callers that block."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

from cfbridge import api
from cfbridge.api.server import ApiServer
from cfbridge.edits import Edit
from cfbridge.settings import ApiConfig
from tests.cfbridge.api.world import FakeFacade


class Running:
    def __init__(self, facade: FakeFacade, folder: Path) -> None:
        self.facade = facade
        self.socket = f"{folder}/api.sock"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        config = ApiConfig((f"unix:{self.socket}", "127.0.0.1:0"))
        self.server: ApiServer = self._do(api.serve(facade, config, f"{folder}/state"))

    def _do(self, deed: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(deed, self._loop).result(10)

    def publish(self, *files: str) -> None:
        for file in files:
            self._do(self.facade.revisions.publish(file.encode(), "root", ""))

    def draft(self, name: str, edit: Edit) -> None:
        self._do(self.facade.drafts.edit(name, edit, "root"))

    def close(self) -> None:
        self._do(self.server.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
