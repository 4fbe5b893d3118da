"""The guards of the SQL: conditions on fence, lease and state without which workers, users and the reconciler could hurt a job."""

import re
from dataclasses import dataclass, field

FENCE = r"shards\.fence = \?"
LEASE = r"shards\.lease < \(\(julianday\('now'\) - 2440587\.5\) \* 86400\.0\)"
STATE = r"shards\.state = \?"
NOT_STATE = r"shards\.state != \?"
OPEN = r"shards\.state IN \('queued', 'running'\)"
ANY = re.compile("|".join((FENCE, LEASE, STATE, NOT_STATE, OPEN)))

WRITES = {
    "heartbeat": "UPDATE shards SET lease=",
    "record": "UPDATE shards SET progress=",
    "checkpoint": "UPDATE shards SET attempts_without_progress=",
    "finish": "UPDATE shards SET state=?, owner=?, lease=?, progress=?, result=",
    "publish": "UPDATE shards SET state=?, owner=?, lease=? ",
    "fail": "UPDATE shards SET state=?, owner=?, lease=?, error=",
    "cancel": "UPDATE shards SET state=?, owner=?, lease=? ",
    "release": "UPDATE shards SET state=?, owner=?, lease=?, attempts_without_progress=",
}
ZOMBIE = ("outlive", "resume")  # a worker stops for longer than its lease and goes on
RARE = {
    ("cancel", FENCE): ("outlive", "user cancel", "user retry"),
    ("publish", STATE): ZOMBIE,
    ("fail", FENCE): (*ZOMBIE, "break"),
    ("fail", STATE): (*ZOMBIE, "break"),
    ("release", FENCE): (*ZOMBIE, "drain"),
    ("release", STATE): (*ZOMBIE, "drain"),
}
CANDIDATE = "SELECT shards.job_id, shards.number, shards.state"
CLOSE_QUEUED = "UPDATE shards SET state=? WHERE shards.job_id = ? AND shards.state"
UNDER_ROLLBACK = "the write of the same transaction has it too and rolls back what was read"
LEASE_SAYS_IT = "only a running shard has a lease, which `rows_are_whole` sees in every state"


@dataclass
class Guard:
    """A condition of a statement of a call. Removed, it is always true; `redundant` says why nothing can come of that."""

    call: str
    statement: str
    """What the statement begins with."""
    condition: str
    """The condition as it is compiled, as a regular expression."""
    redundant: str = ""
    nth: int | None = None
    """Only in this statement of that beginning within the call, from 1."""
    faults: tuple[str, ...] = ()
    """Those that lead to where it matters, for guards that chance alone seldom comes to."""
    removals: int = field(default=0, init=False)
    _met: int = field(default=0, init=False)

    def __str__(self) -> str:
        plain = re.sub(r"\(\?.*?\)|\\", "", self.condition).partition(" ((")[0]
        return f"{self.call}: {plain} in {self.statement.rstrip()}{'' if self.nth is None else f', number {self.nth}'}"

    def begin(self) -> None:
        """A call begins."""
        self._met = 0

    def concerns(self, call: str, statement: str) -> bool:
        """Whether it is a guard of that statement."""
        return self.call == call and statement.startswith(self.statement) and self.place(statement) is not None

    def place(self, statement: str) -> tuple[int, int] | None:
        """Where the condition begins and ends."""
        found = re.search(self.condition, statement)
        return None if found is None else found.span()

    def removed(self, call: str, statement: str) -> str:
        """The statement without the guard; parameters stay where they are."""
        if not self.concerns(call, statement):
            return statement
        self._met += 1
        if self.nth not in (None, self._met):
            return statement
        begin, end = self.place(statement) or (0, 0)
        self.removals += 1
        always = "? IS NOT NULL" if "?" in statement[begin:end] else "1"
        return statement[:begin] + always + statement[end:]


GUARDS: tuple[Guard, ...] = (
    *(
        Guard(call, statement, condition, faults=RARE.get((call, condition), ()))
        for call, statement in WRITES.items()
        for condition in (FENCE, STATE)
    ),
    Guard("record", "UPDATE shards SET fence=", FENCE),
    Guard("record", "UPDATE shards SET fence=", STATE),
    Guard("orders", "SELECT jobs.state", FENCE),
    Guard("orders", "SELECT jobs.state", STATE),
    Guard("claim", CANDIDATE, LEASE),
    Guard("claim", CANDIDATE, f"{STATE}(?= OR)"),
    Guard("claim", "SELECT shards.result", STATE),
    Guard("reconcile", "SELECT shards.job_id", LEASE),
    Guard("reconcile", "UPDATE shards SET state=?, owner=?", LEASE, faults=("tick", "reconcile", "user cancel")),
    Guard("reconcile", "UPDATE shards SET state=CASE", LEASE),
    *(Guard(call, CLOSE_QUEUED, STATE) for call in ("claim", "finish", "publish", "fail", "cancel", "reconcile")),
    Guard("release", CLOSE_QUEUED, STATE, faults=("drain", "drain", "ruin", "resume")),
    Guard("user cancel", CLOSE_QUEUED, STATE, nth=1),
    Guard("user cancel", CLOSE_QUEUED, STATE, nth=2),
    Guard("user stop", "UPDATE shards SET state=? WHERE shards.job_id = ? AND shards.kind", STATE),
    Guard("user stop", "SELECT shards.number", NOT_STATE, faults=("break", "user stop", "kill before", "pause")),
    Guard("user retry", "SELECT shards.number", STATE),
    Guard("user retry", "UPDATE shards SET state=?, owner=?", NOT_STATE),
    # What follows can be removed without harm.
    Guard("claim", CANDIDATE, f"(?<=OR ){STATE}", "the first condition leaves only queued shards beside running ones, and they are wanted"),
    Guard("claim", CANDIDATE, OPEN, "it repeats the other two for the partial index"),
    Guard("heartbeat", "SELECT jobs.state", FENCE, UNDER_ROLLBACK),
    Guard("heartbeat", "SELECT jobs.state", STATE, UNDER_ROLLBACK),
    Guard("fail", "SELECT shards.attempts_without_progress", FENCE, UNDER_ROLLBACK),
    Guard("fail", "SELECT shards.attempts_without_progress", STATE, UNDER_ROLLBACK),
    Guard("reconcile", "SELECT shards.job_id", STATE, LEASE_SAYS_IT),
    Guard("reconcile", "UPDATE shards SET state=?, owner=?", STATE, LEASE_SAYS_IT),
    Guard("reconcile", "UPDATE shards SET state=CASE", STATE, LEASE_SAYS_IT),
)
