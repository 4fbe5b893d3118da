"""Where training members side by side pays, on machines that were not calibrated: the planner's bounds, and the estimate's."""

STACK_PARAMETERS = 100_000
"""Most parameters of a member: with its moments it has to stay in a core's cache."""
STACK_MEMBERS = 16
"""Most members side by side."""


def side_by_side(parameters: int, members: int, *, most_parameters: int = STACK_PARAMETERS, most_members: int = STACK_MEMBERS) -> int:
    """How many of a shard's members train at once."""
    return min(members, most_members) if members > 1 and 0 < parameters <= most_parameters else 1
