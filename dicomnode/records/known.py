"""Answers one question about every image that comes in, as cheaply as the database can."""

from __future__ import annotations

import threading
from typing import Any

from dicomnode.errors import TransientError
from dicomnode.records.db import Database


class KnownInstances:
    """SOP Instance UIDs that are recorded. Asks past SQLAlchemy: its share is ten times that of SQLite."""

    def __init__(self, database: Database) -> None:
        self._engine = database.engine
        place = "?" if self._engine.dialect.paramstyle == "qmark" else "%s"
        self._query = f"SELECT 1 FROM instances WHERE sop_instance_uid = {place} LIMIT 1"
        self._of_thread = threading.local()

    def __contains__(self, sop_instance_uid: str) -> bool:
        """Whether any content is recorded under this UID. Raises TransientError when that cannot be asked."""
        assert self._engine.dialect.dbapi is not None
        try:
            connection = self._connection()
            cursor = connection.cursor()
            cursor.execute(self._query, (sop_instance_uid,))
            is_known = cursor.fetchone() is not None
            cursor.close()
            connection.rollback()
        except self._engine.dialect.dbapi.Error as error:
            self._of_thread.connection = None
            raise TransientError(f"the database cannot be asked ({type(error).__name__})") from error
        return is_known

    def _connection(self) -> Any:
        connection = getattr(self._of_thread, "connection", None)
        if connection is None:
            connection = self._of_thread.connection = self._engine.raw_connection()
        return connection
