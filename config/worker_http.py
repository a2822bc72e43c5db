"""The variables of the HTTP port of a machine's workers: metrics and health."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated, ClassVar

from annotated_types import Interval
from pydantic import Field

from .base import Section
from .types import Folder, Whole

Port = Annotated[Whole, Interval(ge=1, le=65_535)]


class WorkerHttpSettings(Section):
    """HTTP port of workers"""

    prefix: ClassVar[str] = "WORKER_HTTP_"

    port: Port | None = Field(
        None,
        description="Port for /metrics and health, one for all workers of a machine. Default: none "
        "is opened.",
    )
    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address of the port; 0.0.0.0 for scrapes from other machines. Needs no login.",
    )
    dir: Folder | None = Field(
        None,
        description="Folder for the counts of all workers that share the port; only this user may "
        "read it. Default: a folder below the system's folder for temporary files.",
    )

    @property
    def folder(self) -> Path:
        """The folder in force. Its name has the user and the port, so that two never mix."""
        if self.dir is not None:
            return self.dir.absolute()
        return Path(tempfile.gettempdir()) / f"formrelay-{os.getuid()}-{self.port}"
