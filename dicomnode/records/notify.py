"""Signals between the processes of a node on any number of machines: LISTEN and NOTIFY of PostgreSQL."""

from __future__ import annotations

import threading
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import SQLAlchemyError

from dicomnode.records.wake import BaseEar, Ear, Topic

PREFIX = "dicomnode_"

log = structlog.get_logger()


class PostgresWake:
    """Signals by the database itself, each on a channel of its topic."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def signal(self, topic: Topic) -> None:
        """Notify the channel."""
        try:
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(select(func.pg_notify(PREFIX + topic.value, "")))
        except SQLAlchemyError as error:
            log.warning("wake_not_signalled", topic=topic.value, reason=type(error).__name__)

    def listen(self, topic: Topic) -> Ear:
        """An ear with a connection of its own."""
        return _Channel(self._engine, topic)


class _Channel(BaseEar):
    """Listens on one channel. When the server goes away, it listens again as soon as the server is back."""

    def __init__(self, engine: Engine, topic: Topic) -> None:
        self._engine = engine
        self._topic = topic
        self._connection: Connection | None = None
        self._driver: Any = None
        self._closed = threading.Event()
        self._open()

    def wait(self, timeout_s: float) -> bool:
        """As `Ear` says; a signal may have been missed when the server was away, so its return is one."""
        if self._connection is None:
            if not self._open():
                self._closed.wait(timeout_s)
            return self._connection is not None
        try:
            heard = any(True for _ in self._driver.notifies(timeout=timeout_s, stop_after=1))
            for _ in self._driver.notifies(timeout=0):
                pass  # many signals are as good as one
        except self._engine.dialect.loaded_dbapi.Error as error:
            log.warning("wake_not_heard", topic=self._topic.value, reason=type(error).__name__)
            self._hang_up()
            return False
        return heard

    def close(self) -> None:
        """As `Ear` says."""
        self._closed.set()
        self._hang_up()

    def _open(self) -> bool:
        try:
            connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            self._driver = connection.connection.driver_connection
            connection.detach()  # it is ours alone, and never goes back to the pool
            connection.exec_driver_sql(f"LISTEN {PREFIX}{self._topic.value}")
        except SQLAlchemyError as error:
            log.warning("wake_not_heard", topic=self._topic.value, reason=type(error).__name__)
            return False
        self._connection = connection
        return True

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.invalidate()  # it may be broken: no farewell
            self._connection.close()
            self._connection = None
