"""The pipe to the supervisor, used by many threads at once: nothing is mixed up and nothing is lost."""

import multiprocessing
import threading
from multiprocessing.connection import Connection

import pytest

from workers.messages import Log, Metrics, Progress
from workers.training.link import Link

THREADS, MESSAGES = 4, 150
LONG = 40_000
"""Characters: such a message is written in more than one piece."""


def talk(connection: Connection) -> None:
    """What a trainer's threads do, for all they are worth."""
    link = Link(connection)
    ready = threading.Barrier(THREADS)

    def speak(thread: int) -> None:
        ready.wait()
        for turn in range(MESSAGES):
            link.metrics([(thread, turn, "train.loss", float(turn))])
            link.progress(Progress(turn / MESSAGES, thread, 0, None, "training", None))
            link.log(f"{thread} {turn} " + "x" * LONG)

    speakers = [threading.Thread(target=speak, args=(thread,)) for thread in range(THREADS)]
    for each in speakers:
        each.start()
    for each in speakers:
        each.join()
    link.send("end")
    threading.Event().wait()


@pytest.fixture(scope="module")
def heard() -> list[object]:
    """All that came through a real pipe."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=talk, args=(theirs,))
    process.start()
    theirs.close()
    found: list[object] = []
    try:
        while ours.poll(30):
            found.append(ours.recv())
            if found[-1] == "end":
                break
    finally:
        ours.close()
        process.join(10)
        # Nobody is left to talk to.
        assert process.exitcode == 70
    return found


def test_messages_of_many_threads_arrive_whole_and_once(heard: list[object]) -> None:
    assert heard[-1] == "end"
    lines = [message.message.split(" ") for message in heard if isinstance(message, Log)]
    assert all(text == "x" * LONG for _, _, text in lines)
    rows = [row for message in heard if isinstance(message, Metrics) for row in message.rows]
    for thread in range(THREADS):
        assert [int(turn) for speaker, turn, _ in lines if int(speaker) == thread] == list(range(MESSAGES))
        assert [turn for speaker, turn, _, _ in rows if speaker == thread] == list(range(MESSAGES))
    shown = [message for message in heard if isinstance(message, Progress)]
    assert 0 < len(shown) <= THREADS * MESSAGES


def test_what_was_held_back_goes_before_the_message(heard: list[object]) -> None:
    """A line that tells of an epoch never comes before that epoch's measurements."""
    known: set[tuple[int, int]] = set()
    for message in heard:
        if isinstance(message, Metrics):
            known |= {(row[0], row[1]) for row in message.rows}
        elif isinstance(message, Log):
            thread, turn, _ = message.message.split(" ")
            assert (int(thread), int(turn)) in known
