"""Promises of the node, each broken by one small change, and the test that must notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mutant:
    """One broken promise: `old` becomes `new` in a file, and `test` must fail then."""

    name: str
    promise: str
    file: str
    old: str
    new: str
    test: str

    def apply(self, root: Path) -> str:
        """Change the file below `root`, and return its old text. Raises ValueError when it does not fit."""
        path = root / self.file
        text = path.read_text("utf-8")
        if text.count(self.old) != 1:
            raise ValueError(
                f"mutant {self.name}: its text occurs {text.count(self.old)} times in {self.file}; "
                "the code has moved on, correct tests/mutants/mutants.py"
            )
        path.write_text(text.replace(self.old, self.new), "utf-8")
        return text


DURABILITY = "tests/crash/test_durability.py::test_nothing_is_answered_that_a_loss_of_power_could_take_back"
NODE = "tests/dicomnode"

MUTANTS = (
    Mutant(
        "no_fsync_before_answer",
        "an image is on the disk before its success is answered",
        "dicomnode/receive/journal.py",
        "            os.fdatasync(segment.descriptor)  # the system makes one of those that come together\n",
        "",
        DURABILITY,
    ),
    Mutant(
        "no_fsync_beside_the_journal",
        "an image that does not go by the journal is on the disk before its success, too",
        "dicomnode/spool.py",
        "                    os.fsync(file.fileno())\n",
        "                    pass\n",
        DURABILITY,
    ),
    Mutant(
        "journal_removed_too_early",
        "the journal holds an image until its file is on the disk",
        "dicomnode/receive/acknowledging.py",
        "            self._spool.sync()\n",
        "",
        DURABILITY,
    ),
    Mutant(
        "recorded_twice",
        "what a killed recorder had recorded is not recorded again",
        "dicomnode/receive/recorder.py",
        "                if again and entry.sha256",
        "                if False and entry.sha256",
        f"{NODE}/test_journal.py::test_what_a_killed_process_had_acknowledged_is_recorded_at_the_next_start_once",
    ),
    Mutant(
        "database_not_synced",
        "an image is recorded on the disk before its success is answered",
        "dicomnode/records/engines.py",
        '"synchronous=FULL"',
        '"synchronous=NORMAL"',
        DURABILITY,
    ),
    Mutant(
        "no_fencing",
        "a worker that lost its lease publishes nothing",
        "dicomnode/work/jobs.py",
        "        JobRow.fencing_token == lease.fencing_token,\n",
        "",
        f"{NODE}/test_jobs.py::test_a_worker_that_lost_its_lease_can_do_nothing_with_the_job",
    ),
    Mutant(
        "lost_worker_not_noticed",
        "the job of a dead worker is given to another",
        "dicomnode/work/losses.py",
        "JobRow.lease_expires_at < utc_now())",
        "JobRow.lease_expires_at.is_(None))",
        f"{NODE}/test_jobs.py::test_a_lost_worker_is_noticed_only_when_its_lease_has_expired",
    ),
    Mutant(
        "weights_not_checked",
        "weights that are not those of the card are never used",
        "inference/bundle.py",
        "    if weights_sha256 != card.weights_sha256:\n",
        "    if False:\n",
        "tests/inference/test_bundle.py::test_a_broken_bundle_is_refused_with_its_remedy",
    ),
    Mutant(
        "input_not_checked",
        "a job works on exactly the images that it was made for",
        "dicomnode/work/worker.py",
        "        if series.digest != job.input_digest:\n",
        "        if False:\n",
        f"{NODE}/test_worker.py::test_input_that_changed_before_the_job_began_supersedes_it",
    ),
    Mutant(
        "no_allow_list",
        "who is not configured may not associate",
        "dicomnode/receive/admission.py",
        " and peer.ae_title.strip() == origin.calling_ae_title\n",
        "\n",
        f"{NODE}/test_admission.py::test_an_unknown_calling_title_is_refused_as_not_recognised",
    ),
    Mutant(
        "no_address_check",
        "a known AE title is let in from its own addresses only",
        "dicomnode/receive/admission.py",
        "if _at_home(peer, origin.address)]",
        "if peer]",
        f"{NODE}/test_admission.py::test_a_known_title_at_another_address_is_refused",
    ),
    Mutant(
        "no_loop_guard",
        "own results that come back are never processed",
        "dicomnode/receive/intake.py",
        "own = identity.own_result or found.is_result",
        "own = False",
        f"{NODE}/test_intake.py::test_our_own_result_is_kept_but_reopens_nothing_and_is_never_input",
    ),
    Mutant(
        "no_duplicate_check",
        "the same image sent twice makes no new work",
        "dicomnode/receive/intake.py",
        "        if same is not None:\n",
        "        if False:\n",
        f"{NODE}/test_intake.py::test_the_same_content_again_makes_no_new_row_and_is_no_activity",
    ),
    Mutant(
        "audit_apart",
        "a change and its audit event appear in one transaction",
        "dicomnode/receive/intake.py",
        "        self._audit.record(\n            session,\n            OUTCOME_EVENTS[outcome],\n",
        "        session.flush()\n"
        '        session.connection().exec_driver_sql("COMMIT")\n'
        '        session.connection().exec_driver_sql("BEGIN IMMEDIATE")\n'
        "        self._audit.record(\n            session,\n            OUTCOME_EVENTS[outcome],\n",
        f"{NODE}/test_intake.py::test_when_the_database_fails_nothing_is_recorded_and_the_file_may_stay",
    ),
    Mutant(
        "cut_off_delivery_forgotten",
        "what was being sent when the node died is sent after the restart",
        "dicomnode/deliver/delivery.py",
        "                row.state = moved(DeliveryState.SENDING, DeliveryState.WAITING).value\n",
        "",
        f"{NODE}/test_delivery.py::test_what_a_crash_left_in_sending_is_free_again_at_start",
    ),
    Mutant(
        "lost_attempts_kept",
        "no file stays in the spool that nobody speaks of",
        "dicomnode/work/result_files.py",
        "            path.unlink(missing_ok=True)\n",
        "            pass\n",
        f"{NODE}/test_worker.py::test_the_next_attempt_removes_what_a_killed_one_had_stored",
    ),
)
