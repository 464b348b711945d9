"""The one way to the database of a node, for everything that works with it."""

from __future__ import annotations

import os

from dicomnode.errors import ConfigurationError
from dicomnode.records.db import Database, is_new, migrate
from dicomnode.settings.node import Settings
from dicomnode.spool import Spool


def opened_database(settings: Settings) -> Database:
    """The node's database with its schema up to date.

    Whatever this process writes from here on is for the node's user alone. Raises ConfigurationError
    when it is a new one although the spool has images: it would know nothing of them, and the sweep would
    remove them.
    """
    os.umask(0o077)
    database = Database(settings.database_url)
    if is_new(database) and any(Spool(settings.spool).files()):
        raise ConfigurationError(
            f"{settings.spool} holds images or results, but the database that knows them is not there; "
            "bring it back (see `dicomnode restore` and `dicomnode move-database`), or move the spool away "
            "to begin anew"
        )
    migrate(database)
    return database
