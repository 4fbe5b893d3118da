"""The fault matrix, row by row: the test that covers a fault, or why there is none."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLOCK = """Not injected here: leases come from that one clock, and a jump is then an early or a late takeover, which the fences of 17 bear;
no shim of the clock is among the test tools."""
SLOW = "Slow headers and bodies are the edge's, which closes them after 10 s; its tests are with the routes."
# Number: what happens, and where it is tested (file::test) or why it is not (text without `::`).
MATRIX: dict[int, tuple[str, str]] = {
    1: ("API killed before the commit", "chaos/test_submits.py::test_1_the_api_dies_before_the_commit"),
    2: ("API killed after the commit", "chaos/test_submits.py::test_2_the_api_dies_after_the_commit"),
    3: ("API killed before the reply", "chaos/test_submits.py::test_2_the_api_dies_after_the_commit"),
    4: ("API killed under event streams", "routes/test_events.py::test_a_stream_goes_on_where_it_broke_off"),
    5: ("worker killed before the claim", "chaos/test_workers_lost.py::test_5_a_worker_dies_between_the_ring_and_the_claim"),
    6: ("worker killed before the spawn", "chaos/test_workers_lost.py::test_6_a_worker_dies_between_the_claim_and_its_trainer"),
    7: ("killed in mid epoch", "system/test_job_life.py::test_a_killed_trainer_resumes_to_the_same_bytes"),
    8: ("checkpoint half written", "chaos/test_trainers_lost.py::test_8_a_trainer_dies_while_it_writes_a_checkpoint"),
    9: ("killed between file and row", "chaos/test_workers_lost.py::test_9_a_checkpoint_that_no_row_knows_is_not_used"),
    10: ("killed between result and row", "chaos/test_workers_lost.py::test_10_a_worker_dies_when_its_trainer_is_done"),
    11: ("a ring after the end", "chaos/test_submits.py::test_18_many_rings_for_one_job_give_one_claim"),
    12: ("trainer killed", "chaos/test_trainers_lost.py::test_12_a_killed_trainer_is_replaced_at_once"),
    13: ("trainer crashes each time", "chaos/test_trainers_lost.py::test_13_a_job_that_breaks_its_trainer_each_time_ends"),
    14: ("trainer out of memory", "training/test_memory.py::test_a_trainer_may_not_take_more_than_its_share"),
    15: ("trainer hangs", "chaos/test_trainers_lost.py::test_15_a_trainer_that_hangs_is_killed_and_replaced"),
    16: ("worker killed, trainer alive", "chaos/test_workers_lost.py::test_16_a_trainer_does_not_outlive_its_worker"),
    17: ("worker asleep past its lease", "chaos/test_workers_lost.py::test_17_a_worker_that_sleeps_past_its_lease_wakes_as_a_ghost"),
    18: ("one message, many workers", "chaos/test_submits.py::test_18_many_rings_for_one_job_give_one_claim"),
    19: ("messages that mean nothing", "workers/test_supervisor.py::test_a_message_that_says_nothing_does_not_end_the_worker"),
    20: ("Redis killed and restarted", "chaos/test_submits.py::test_20_the_broker_dies_and_comes_back"),
    21: ("Redis emptied", "chaos/test_submits.py::test_21_a_broker_that_forgot_everything_loses_no_job"),
    22: ("no Redis at the start", "chaos/test_submits.py::test_22_api_and_worker_start_without_a_broker"),
    23: ("Redis hangs", "chaos/test_submits.py::test_23_a_broker_that_hangs_holds_nobody"),
    24: ("Redis is full", "chaos/test_submits.py::test_24_a_broker_that_is_full_refuses_and_harms_nobody"),
    25: ("PostgreSQL restarts", "chaos/test_databases_lost.py::test_25_postgresql_restarts"),
    26: ("PostgreSQL away past the lease", "chaos/test_databases_lost.py::test_26_postgresql_is_away_longer_than_a_lease"),
    27: ("no connection left", "chaos/test_databases_lost.py::test_27_postgresql_has_no_connection_left"),
    28: ("deadlock, ended session", "chaos/test_databases_lost.py::test_28_a_deadlock_is_tried_again"),
    29: ("SQLite locked from outside", "chaos/test_databases_lost.py::test_29_sqlite_is_locked_from_outside"),
    30: ("disk full at a checkpoint", "chaos/test_limits.py::test_30_a_checkpoint_finds_the_disk_full"),
    31: ("disk full at a commit", "chaos/test_limits.py::test_31_a_commit_finds_the_disk_full"),
    32: ("data folder not writable", "temper/test_embedded.py::test_a_folder_that_cannot_be_written_is_said"),
    33: ("checkpoint damaged", "chaos/test_trainers_lost.py::test_33_a_damaged_checkpoint_is_not_used"),
    34: ("model file gone", "chaos/test_trainers_lost.py::test_33_a_damaged_model_is_not_asked"),
    35: ("a worker's clock is wrong", "chaos/test_jobs_ended.py::test_35_no_lease_is_measured_by_a_workers_clock"),
    36: ("the database's clock jumps", CLOCK),
    37: ("cancelled at any moment", "chaos/test_jobs_ended.py::test_37_cancels_at_any_moment_leave_one_end_and_no_trainer"),
    38: ("a running job deleted", "chaos/test_jobs_ended.py::test_38_a_running_job_is_not_deleted_and_an_ended_one_leaves_no_file"),
    39: ("rolling deploy under load", "chaos/test_workers_lost.py::test_39_workers_are_rolled_over_under_load"),
    40: ("SIGTERM, then SIGKILL", "chaos/test_workers_lost.py::test_39_workers_are_rolled_over_under_load"),
    41: ("two workers, one GPU", "GPUs are not leased yet: a worker has slots, and its id is fresh at each start."),
    42: ("old workers on a new schema", "storage/test_upgrades.py::test_an_older_release_can_go_on_writing"),
    43: ("10,000 queued", "storage/test_claims.py::test_ten_thousand_waiting_jobs_are_claimed_quickly"),
    44: ("a flood of submits", "chaos/test_limits.py::test_44_a_flood_of_jobs_is_taken_or_put_off"),
    45: ("streams beside polling", "routes/test_events.py::test_a_hundred_streams_of_one_job_see_the_same"),
    46: ("a stream's reader is slow", "routes/test_events.py::test_who_reads_nothing_holds_no_memory"),
    47: ("slow header or body", SLOW),
    48: ("disconnect in an upload", "routes/test_datasets.py::test_a_broken_upload_leaves_nothing"),
    49: ("one member poisons", "workers/test_supervisor.py::test_a_failure_ends_the_job_and_its_siblings"),
    50: ("killed while the parent closes", "chaos/test_workers_lost.py::test_10_a_worker_dies_when_its_trainer_is_done"),
    51: ("asked while it is published anew", "chaos/test_jobs_ended.py::test_51_a_model_that_is_published_anew_answers_old_or_new"),
    52: ("a hundred first requests", "chaos/test_limits.py::test_52_a_hundred_first_requests_load_a_model_once"),
    53: ("the loss explodes", "system/test_job_life.py::test_a_diverging_job_fails_with_its_cause"),
    54: ("no descriptor left", "chaos/test_limits.py::test_54_an_api_without_descriptors_recovers"),
    55: ("two reconcilers", "chaos/test_limits.py::test_55_a_reconciler_that_comes_late_changes_nothing"),
}  # fmt: skip


def test_every_row_is_there() -> None:
    assert [*MATRIX] == [*range(1, 56)]


@pytest.mark.parametrize("number", MATRIX)
def test_a_row_has_a_test_or_a_reason(number: int) -> None:
    fault, where = MATRIX[number]
    file, named, test = where.partition("::")
    if not named:
        assert len(where.split()) > 8, fault
        return
    tree = ast.parse((ROOT / "tests" / file).read_text())
    assert test in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, f"{fault}: {where}"
