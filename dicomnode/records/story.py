"""The audit trail of one study as a story that a person can read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dicomnode.records.audit import Event
from dicomnode.records.tables import AuditRow

Detail = dict[str, Any]

SENTENCES: dict[str, Callable[[Detail], str]] = {
    Event.NODE_STARTED: lambda d: f"node {d['ae_title']} started on port {d['port']}",
    Event.CONFIGURATION_CHANGED: lambda d: _configured(d),
    Event.ANCHOR_WRITTEN: lambda d: (
        f"anchor of {d['day']} written: {d['event_count']} events up to event {d['last_id']}, "
        f"{'signed' if d['signature'] else 'not signed'}"
    ),
    Event.AUDIT_READ: lambda d: (
        f"audit trail read (audit {d['command']}, "
        f"{d['study_count']} {'study' if d['study_count'] == 1 else 'studies'})"
    ),
    Event.AUDIT_EXPORTED: lambda d: (
        f"audit trail exported ({d['format']}{', with objects' if d['objects'] else ''})"
        + (f": {d['event_count']} events" if "event_count" in d else "")
    ),
    Event.AUDIT_VERIFIED: lambda d: (
        f"audit trail checked against {d['anchor_count']} anchors: {d['event_count']} events, "
        f"{d['fault_count']} faults"
    ),
    Event.ASSOCIATION_REJECTED: lambda d: _turned_away(d, "rejected"),
    Event.ASSOCIATION_CUT: lambda d: _turned_away(d, "cut off"),
    Event.CERTIFICATE_RELOADED: lambda d: "changed TLS certificate files are used from now on",
    Event.CERTIFICATE_NOT_RELOADED: lambda d: f"changed TLS certificate files are not used: {d['reason']}",
    Event.ASSOCIATION_ENDED: lambda d: _association(d),
    Event.INSTANCE_RECEIVED: lambda d: f"instance received from {d['calling_ae_title']}",
    Event.INSTANCE_REPEATED: lambda d: f"instance received again from {d['calling_ae_title']}, unchanged",
    Event.INSTANCE_RECODED: lambda d: (
        f"instance received again from {d['calling_ae_title']}, encoded differently; nothing has changed"
    ),
    Event.INSTANCE_ALTERED: lambda d: (
        f"instance received from {d['calling_ae_title']} with other content under the same UID; "
        "kept as a new version"
    ),
    Event.INSTANCE_REFUSED: lambda d: (
        f"instance from {d['calling_ae_title']} refused with {d['status']}: {d['reason']}"
    ),
    Event.COMMITMENT_ASKED: lambda d: f"{d['peer']} asks for commitment to {d['instance_count']} instance(s)",
    Event.COMMITMENT_REPORTED: lambda d: f"{d['peer']} told: {_commitment(d)}",
    Event.COMMITMENT_REPORT_RETRIED: lambda d: (
        f"{d['peer']} could not be told ({_commitment(d)}); next try in {d['delay_s']:.0f} s: {d['reason']}"
    ),
    Event.COMMITMENT_REPORT_DEAD: lambda d: (
        f"{d['peer']} could not be told in {d['attempt']} attempts ({_commitment(d)}): {d['reason']}"
    ),
    Event.OWN_RESULT_RECEIVED: lambda d: (
        f"result of a node of this kind came back from {d['calling_ae_title']}; not processed"
    ),
    Event.INSTANCES_RETRIEVED: lambda d: (
        f"{d['missing_count']} missing instances asked of {d['peer']} by C-{d['method'].upper()}: "
        f"{d['completed_count']} came, {d['failed_count']} failed ({d['status']})"
    ),
    Event.INSTANCES_PURGED: lambda d: f"files of {d['instance_count']} {d['kind']} removed by retention",
    Event.ORPHAN_REMOVED: lambda d: (
        f"file {d['file']} removed from the spool: "
        + ("a purge was cut short" if d["was_purged"] else "nothing speaks of it")
    ),
    Event.DISK_LOW: lambda d: f"disk low, {d['free_bytes'] / 1e9:.1f} GB free: intake is {d['flow']}",
    Event.DISK_RECOVERED: lambda d: (
        f"disk has {d['free_bytes'] / 1e9:.1f} GB free: everything is taken again"
    ),
    Event.STUDY_REOPENED: lambda d: f"late instance: study open again, generation {d['generation']}",
    Event.STUDY_COMPLETED: lambda d: _completed(d),
    Event.STUDY_HELD: lambda d: f"study waits before routing: {d['reason']}",
    Event.STUDY_PARKED: lambda d: f"study parked: {d['reason']}",
    Event.STUDY_REPLAYED: lambda d: "study routed again by hand",
    Event.SERIES_ROUTED: lambda d: (
        f"series ({d['modality']}, {d['instance_count']} instances) routed: {d['reason']}"
    ),
    Event.SERIES_NOT_ROUTED: lambda d: (
        f"series ({d['modality']}, {d['instance_count']} instances) not routed: {d['reason']}"
    ),
    Event.JOB_CREATED: lambda d: f"{'shadow ' if d.get('shadow') else ''}job created for {_model(d)}",
    Event.JOB_STARTED: lambda d: (
        "job started" + (f" by worker {d['worker']}" if "worker" in d else "") + f", attempt {d['attempt']}"
    ),
    Event.STAGE_FINISHED: lambda d: f"{d['stage']} took {d['duration_s']:.2f} s",
    Event.STAGE_FAILED: lambda d: f"{d['stage']} failed after {d['duration_s']:.2f} s: {d['error']}",
    Event.JOB_SUCCEEDED: lambda d: _succeeded(d),
    Event.JOB_FAILED: lambda d: f"job failed: {d['reason']}",
    Event.JOB_RETRIED: lambda d: f"job goes back to the queue for {d['delay_s']:.0f} s: {d['reason']}",
    Event.JOB_SUPERSEDED: lambda d: f"job superseded: {d.get('reason', 'a newer one takes its place')}",
    Event.JOB_RECOVERED: lambda d: f"job recovered: {d['reason']}",
    Event.JOB_CHECKED: lambda d: (
        "job run again to compare: "
        + ("the same bit for bit" if d["same"] else f"other {', '.join(d['other'])}")
    ),
    Event.JOB_REPLAYED: lambda d: "job queued again",
    Event.RESULT_CREATED: lambda d: f"{d['kind']} created (SHA-256 {d['sha256'][:12]})",
    Event.RESULT_LEFT_OUT: lambda d: (
        f"{d['kind']} could not be made ({d['error']}) and goes to nobody"
        + (f": {', '.join(d['destinations'])} waits for it in vain" if d["destinations"] else "")
    ),
    Event.RESULT_MENDED: lambda d: f"{d['kind']} made again by hand: its file was damaged or lost",
    Event.RESULT_STORED: lambda d: (
        f"{d['kind']} stored at {d['destination']} ({d['status']}), which is to commit to it"
    ),
    Event.COMMITMENT_REQUESTED: lambda d: (
        f"{d['destination']} is asked to commit to {d['instance_count']} object(s), request {d['attempt']}"
    ),
    Event.COMMITMENT_POSTPONED: lambda d: (
        f"{d['destination']} could not be asked to commit; next try in {d['delay_s']:.0f} s: {d['reason']}"
    ),
    Event.COMMITMENTS_PRUNED: lambda d: (
        f"what was settled about storage commitment before {d['before'][:10]} is forgotten: "
        f"{d['requests_to_destinations']} request(s) of ours, {d['requests_of_senders']} of senders"
    ),
    Event.RESULT_DELIVERED: lambda d: f"{d['kind']} sent to {d['destination']}: {d['status']}",
    Event.DELIVERY_RETRIED: lambda d: (
        f"{d['kind']} not yet at {d['destination']}: {d['status']}; next try in {d['delay_s']:.0f} s"
    ),
    Event.DELIVERY_DEAD: lambda d: (
        f"{d['kind']} given up for {d['destination']}: {d['status']} (attempt {d['attempt']})"
    ),
    Event.DELIVERY_REPLAYED: lambda d: f"delivery to {d['destination']} queued again by hand",
    Event.USER_ADDED: lambda d: f"user {d['user']} added as {d['role']}",
    Event.USER_CHANGED: lambda d: f"user {d['user']} changed: {', '.join(d['changed'])}",
    Event.USER_REMOVED: lambda d: f"user {d['user']} removed",
    Event.LOGGED_IN: lambda d: f"{d['user']} logged in from {d['address']} by {d['method']}",
    Event.LOGIN_FAILED: lambda d: f"login of {d['user']} from {d['address']} failed: {d['reason']}",
    Event.LOGGED_OUT: lambda d: f"{d['user']} logged out",
    Event.PATIENT_DATA_VIEWED: lambda d: f"{d['page']} seen from {d['address']}",
    Event.MODEL_ENROLLED: lambda d: f"{_model(d)} seen for the first time: {d['state']}",
    Event.MODEL_CHANGED: lambda d: f"{_model(d)}: {d['before']} to {d['state']}, because: {d['reason']}",
    Event.SHADOW_SKIPPED: lambda d: f"candidate {_model(d)} does not look at this series: {d['reason']}",
    Event.MODELS_COMPARED: lambda d: _compared(d),
    Event.PROCESS_DIED: lambda d: f"process {d['role']} died with exit status {d['exit_status']}",
    Event.ALERT_BEGAN: lambda d: f"alert begun ({d['kind']}): {d['text']}",
    Event.BACKUP_MADE: lambda d: (
        f"backup made ({d['content']}): {d['file_count']} files, manifest SHA-256 {d['manifest_sha256'][:12]}"
    ),
    Event.BACKUP_RESTORED: lambda d: (
        f"backup of {d['made_at'][:19]} restored, manifest SHA-256 {d['manifest_sha256'][:12]}"
    ),
    Event.DATABASE_MOVED: lambda d: f"records moved to {d['target']}: {d['event_count']} events unbroken",
    Event.ALERT_ENDED: lambda d: f"alert ended ({d['kind']}): {d['text']}",
    Event.DESTINATION_LOST: lambda d: (
        f"destination {d['destination']} counts as lost, {d['waiting_count']} result(s) wait: {d['reason']}"
    ),
    Event.DESTINATION_REPLAYED: lambda d: f"destination {d['destination']} is tried at once, by hand",
    Event.CLOCK_SET_BACK: lambda d: (
        "the clock was set back; times too far ahead were pulled back to now: "
        + ", ".join(f"{count} x {what}" for what, count in d["pulled_back"].items())
    ),
    Event.DESTINATION_BACK: lambda d: (
        f"destination {d['destination']} is back after {d['lost_s']:.0f} s and {d['failures']} failures"
    ),
}


@dataclass(frozen=True)
class Line:
    """One line of the story; `count` equal events in a row are told once."""

    at: datetime
    actor: str
    sentence: str
    job_id: int | None
    count: int = 1


def sentence_of(row: AuditRow) -> str:
    """An event in words; a newer version may have written kinds of events that this one does not know."""
    known = SENTENCES.get(row.event)
    return known(row.detail) if known else f"{row.event.replace('_', ' ')} (an event of a newer version)"


def tell(rows: Iterable[AuditRow]) -> list[Line]:
    """The events in order, runs of the same sentence joined."""
    lines: list[Line] = []
    for row in rows:
        sentence = sentence_of(row)
        last = lines[-1] if lines else None
        if last and (last.sentence, last.actor, last.job_id) == (sentence, row.actor, row.job_id):
            lines[-1] = Line(last.at, last.actor, sentence, last.job_id, last.count + 1)
        else:
            lines.append(Line(row.at, row.actor, sentence, row.job_id))
    return lines


def _association(detail: Detail) -> str:
    counts = [f"{count} C-STORE answered {status}" for status, count in detail["stores"].items()]
    if detail["echoes"]:
        counts.append(f"{detail['echoes']} C-ECHO")
    return (
        f"association of {detail['calling_ae_title']} at {detail['address']} {detail['ended']} after "
        f"{detail['duration_s']:.1f} s: {', '.join(counts) or 'nothing was sent'}"
    )


def _turned_away(detail: Detail, how: str) -> str:
    who = detail["calling_ae_title"] or "a connection without AE title"
    times = detail.get("times", 1)
    again = f" ({times} more times)" if times > 1 else ""
    return f"association of {who} at {detail['address']} {how}: {detail['reason']}{again}"


def _commitment(detail: Detail) -> str:
    failed = "".join(f", {count} not: {reason}" for reason, count in detail["failed"].items())
    return f"{detail['committed']} instance(s) committed{failed}"


def _configured(detail: Detail) -> str:
    changes = [f"{key} from {each['old']} to {each['new']}" for key, each in detail["changed"].items()]
    return f"configuration changed: {'; '.join(changes) or 'the file, but no value that is shown'}"


def _completed(detail: Detail) -> str:
    expected = detail["expected_count"]
    of = f" of {expected} expected" if expected is not None else ""
    return f"study complete by {detail['rule'].replace('_', ' ')}: {detail['received_count']}{of} instances"


def _succeeded(detail: Detail) -> str:
    volume = detail["total_volume_mm3"]
    burden = f", {volume:.0f} mm3 in all" if volume else ""
    return f"job succeeded in {detail['duration_s']:.2f} s: {detail['lesion_count']} lesion(s){burden}"


def _model(detail: Detail) -> str:
    return f"model {detail['model']} {detail['model_version']} (digest {detail['model_digest'][:12]})"


def _compared(detail: Detail) -> str:
    if "error" in detail:
        return f"candidate not compared with job {detail['live_job_id']}: {detail['error']}"
    dice = "neither saw anything" if detail["dice"] is None else f"Dice {detail['dice']:.3f}"
    return (
        f"candidate compared with job {detail['live_job_id']}: {dice}; lesions seen by both "
        f"{detail['found_by_both']}, by one alone {detail['only_live']} (live), "
        f"{detail['only_candidate']} (candidate)"
    )
