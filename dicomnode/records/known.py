"""Answers one question about every image that comes in, as cheaply as the database can."""

from __future__ import annotations

from queue import Empty, LifoQueue
from typing import Any

from dicomnode.errors import TransientError
from dicomnode.records.db import Database

CONNECTIONS = 4
"""However many ask: an answer takes microseconds, and the others find connections left in the pool."""
TIMEOUT_S = 30.0


class KnownInstances:
    """SOP Instance UIDs that are recorded. Asks past SQLAlchemy: its share is ten times that of SQLite."""

    def __init__(self, database: Database) -> None:
        self._engine = database.engine
        place = "?" if self._engine.dialect.paramstyle == "qmark" else "%s"
        self._query = f"SELECT 1 FROM instances WHERE sop_instance_uid = {place} LIMIT 1"
        self._idle: LifoQueue[Any] = LifoQueue()
        for _ in range(CONNECTIONS):
            self._idle.put(None)  # made when it is needed

    def __contains__(self, sop_instance_uid: str) -> bool:
        """Whether any content is recorded under this UID. Raises TransientError when that cannot be asked."""
        try:
            connection = self._idle.get(timeout=TIMEOUT_S)
        except Empty as error:
            raise TransientError("the database cannot be asked (others wait for its answer)") from error
        try:
            is_known, connection = self._is_known(connection, sop_instance_uid)
        except BaseException:
            connection = None  # a broken one is not asked again
            raise
        finally:
            self._idle.put(connection)
        return is_known

    def _is_known(self, connection: Any, sop_instance_uid: str) -> tuple[bool, Any]:
        """The answer, and the connection that gave it: another one where the server has been away since."""
        assert self._engine.dialect.dbapi is not None
        driver_error = self._engine.dialect.dbapi.Error
        if connection is not None:
            try:
                return self._asked(connection, sop_instance_uid), connection
            except driver_error as error:
                connection.invalidate(error)
        try:
            connection = self._engine.raw_connection()
            return self._asked(connection, sop_instance_uid), connection
        except driver_error as error:
            raise TransientError(f"the database cannot be asked ({type(error).__name__})") from error

    def _asked(self, connection: Any, sop_instance_uid: str) -> bool:
        cursor = connection.cursor()
        cursor.execute(self._query, (sop_instance_uid,))
        is_known = cursor.fetchone() is not None
        cursor.close()
        connection.rollback()
        return is_known
