"""Every point of a study's path at which the node is killed: where it is, and what dying there proves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["serve", "receive", "record", "housekeep", "work"]


@dataclass(frozen=True)
class KillPoint:
    """A place in the node's own code; `tests/crash/plant` makes a process die there."""

    name: str
    role: Role
    target: str
    """module:function, or module:Class.method"""
    when: Literal["before", "after", "byte"]
    proves: str
    first: int = 1
    """At which call of the function (or after which byte) ..."""
    step: int = 1
    span: int = 1
    """... or at one of `span` calls, `step` apart."""
    at_migration: bool = False
    """Whether it is passed only when a node starts with an older schema, or with none."""


JOURNAL = "dicomnode.receive.journal:Journal"
WORKER = "dicomnode.work.worker:Worker"
QUEUE = "dicomnode.work.jobs:JobQueue"
MODELS = "inference.resident:ResidentModels"
PIPELINE = "dicomnode.work.pipeline"
ASSEMBLY = "dicomnode.assemble.assembly"
DISPATCH = "dicomnode.route.dispatch"
VERSIONS = "dicomnode.route.versions"
DELIVERY = "dicomnode.deliver.delivery"
SENDER = "dicomnode.deliver.sender"
SPOOL = "dicomnode.spool:Spool"

RECEIVE = (
    KillPoint("byte_of_pdata", "receive", "socket:socket.recv_into", "byte",
              "half an image that nobody acknowledged leaves nothing behind", span=60_000),
    KillPoint("before_journal", "receive", f"{JOURNAL}.append", "before",
              "an image that is only in memory is not acknowledged", span=10),
    KillPoint("written_not_synced", "receive", "os:fdatasync", "before",
              "an entry of the journal that may be torn is not acknowledged", span=8),
    KillPoint("synced_not_answered", "receive", f"{JOURNAL}.append", "after",
              "what the sender repeats because it got no answer is one image", span=8),
    KillPoint("answered", "receive", "dicomnode.receive.storing:Storing.answer", "after",
              "what is acknowledged and not recorded is recorded after the restart", span=12),
    KillPoint("before_placing", "record", f"{SPOOL}.place", "before",
              "the next recorder makes the file of an image that is only in the journal", span=8),
    KillPoint("placed_not_recorded", "record", "dicomnode.receive.intake:Intake.record", "before",
              "a file without its row is recorded by the next recorder", span=8),
    KillPoint("recorded_not_committed", "record", "dicomnode.receive.intake:Intake.record", "after",
              "row and audit event vanish together, and come back once", span=8),
    KillPoint("committed_not_told", "record", "dicomnode.receive.recorder:Recorder.write_down", "after",
              "what the next recorder finds recorded is not recorded again"),
)  # fmt: skip

ASSEMBLE = (
    KillPoint("counted", "housekeep", "dicomnode.assemble.query:count_instances", "after",
              "the peer is asked again for its count"),
    KillPoint("before_closing", "housekeep", f"{ASSEMBLY}:Assembly._close", "before",
              "a study that is complete is closed after the restart"),
    KillPoint("closed_not_committed", "housekeep", f"{ASSEMBLY}:Assembly._close", "after",
              "a study is not half closed"),
    KillPoint("before_routing", "housekeep", f"{DISPATCH}:Dispatch._route", "before",
              "a closed study is routed after the restart"),
    KillPoint("routed_in_memory", "housekeep", f"{DISPATCH}:route_study", "after",
              "a decision that was not written is made again"),
    KillPoint("job_made_not_committed", "housekeep", f"{VERSIONS}:create_job", "after",
              "decision, job and state of the study appear together or not at all"),
    KillPoint("routed", "housekeep", f"{DISPATCH}:Dispatch._route", "after",
              "a routed study is not routed twice"),
)  # fmt: skip

WORK = (
    KillPoint("leased", "work", f"{WORKER}._attempt", "before",
              "a job whose worker died at once is given to another"),
    KillPoint("read", "work", f"{PIPELINE}:read_volume", "after", "reading is repeated"),
    KillPoint("before_segmenting", "work", f"{MODELS}.segment", "before",
              "the job comes back from the model's door"),
    KillPoint("segmented", "work", f"{MODELS}.segment", "after", "segmenting is repeated"),
    KillPoint("measured", "work", f"{PIPELINE}:measure_lesions", "after", "measuring is repeated"),
    KillPoint("seg_encoded", "work", "dicomnode.encode.results:encode_seg", "after",
              "a SEG without its reports is never published"),
    KillPoint("encoded", "work", f"{PIPELINE}:encode_results", "after",
              "results that are only in memory are made again, with the same UIDs"),
    KillPoint("result_written_not_synced", "work", "os:fsync", "before",
              "a half-written result is never sent"),
    KillPoint("seg_stored", "work", f"{SPOOL}.write", "after",
              "a stored SEG without stored reports is never published"),
    KillPoint("all_stored", "work", f"{QUEUE}.succeed", "before",
              "stored results are published by the next attempt, once"),
    KillPoint("publishing", "work", f"{QUEUE}._publish", "after",
              "of three results all become visible, or none", span=3),
    KillPoint("published", "work", f"{QUEUE}.succeed", "after", "a job that succeeded is not done again"),
)  # fmt: skip

DELIVER = (
    KillPoint("taken", "housekeep", f"{DELIVERY}:Delivery._take", "after",
              "what was marked as being sent is sent after the restart"),
    KillPoint("before_sending", "housekeep", f"{SENDER}:_store", "before",
              "the PACS gets what was cut off before its first byte", span=3),
    KillPoint("seg_sent_not_recorded", "housekeep", f"{SENDER}:_store", "after",
              "a SEG that is sent twice is one SEG"),
    KillPoint("seg_recorded", "housekeep", f"{DELIVERY}:Delivery._settle", "after",
              "reports follow a SEG that went without them"),
    KillPoint("report_sent_not_recorded", "housekeep", f"{SENDER}:_store", "after",
              "a report that is sent twice is one report", first=2),
    KillPoint("last_sent_not_recorded", "housekeep", f"{SENDER}:_store", "after",
              "the last object of a set is not lost between the PACS and the record", first=3),
    KillPoint("settled_not_committed", "housekeep", f"{DELIVERY}:settle", "after",
              "a delivery and its audit event appear together", span=3),
    KillPoint("delivered", "housekeep", f"{DELIVERY}:Delivery._settle", "after",
              "what is delivered is not sent again", first=3),
)  # fmt: skip

START = (
    KillPoint("migrating", "serve", "alembic.ddl.impl:DefaultImpl._exec", "before",
              "a schema is there as a whole or not at all", span=12, at_migration=True),
    KillPoint("migrated_not_committed", "serve", "alembic.command:upgrade", "after",
              "a schema that was not committed is made again", at_migration=True),
    KillPoint("before_roles_start", "serve", "dicomnode.commands.run:supervise", "before",
              "a node that died while starting starts", at_migration=True),
)  # fmt: skip

PHASES = (RECEIVE, ASSEMBLE, WORK, DELIVER)
"""A study passes them in this order, so one kill in each is possible in one study."""

POINTS = tuple(point for phase in (*PHASES, START) for point in phase)

RANDOM_POINTS = {
    "random_receive": "receive",
    "random_housekeep": "housekeep",
    "random_work": "work",
    "random_serve": "serve",
    "random_power": "power",
}
"""Kills at a random time: of one process, of the supervisor alone, or of everything at once."""

PAUSED = "paused_before_publishing"
"""A worker that is stopped until another one has its job, and then wakes."""


@dataclass(frozen=True)
class Row:
    """What the page says of one way to die."""

    name: str
    role: str
    proves: str


ROWS = (
    *(Row(point.name, point.role, point.proves) for point in POINTS),
    *(
        Row(name, "everything" if role == "power" else role, "no moment was overlooked above")
        for name, role in RANDOM_POINTS.items()
    ),
    Row(PAUSED, "work", "a worker that wakes after its lease expired cannot publish (SIGSTOP, not SIGKILL)"),
)
"""The table of docs/reliability.md."""


def point_called(name: str) -> KillPoint:
    """The kill point of this name."""
    return next(point for point in POINTS if point.name == name)
