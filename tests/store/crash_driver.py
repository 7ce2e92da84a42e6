"""Kills a process that commits cycles, again and again, and checks what each death left behind.

Run as a process of its own: `crash_driver.py URL KILLS SEED`. It forks, so it opens no database before a fork.
Prints one line a kill, `seed=… acknowledged=… found=…`; exits 1 with a sentence where a cycle is torn or lost.
"""

from __future__ import annotations

import os
import random
import select
import signal
import sys

from tests.store.records_for_tests import SINKS, cycle, subject

from foreshock.store.history import History


def commit_for_ever(url: str, acknowledge: int) -> None:
    """Commit cycles after the last one that is there; say so after each commit, and never before."""
    history = History(url)
    n = len(history.load_alert_states())
    while True:
        history.commit_cycle(cycle(n))
        os.write(acknowledge, b"+")
        n += 1


def live_and_die(url: str, chance: random.Random) -> int:
    """How many commits a child acknowledged before it was killed at a random point."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            commit_for_ever(url, writer)
        finally:
            os._exit(1)
    os.close(writer)
    wanted, heard = chance.randrange(0, 6), 0
    while heard < wanted:
        got = os.read(reader, wanted - heard)
        if not got:
            break
        heard += len(got)
    # A pause of random length that ends early if the child dies by itself: the kill falls anywhere in a commit.
    select.select([], [], [], chance.uniform(0.0, 0.004))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        sys.exit("the child ended by itself")
    while got := os.read(reader, 4_096):
        heard += len(got)
    os.close(reader)
    return heard


def whole_cycles(url: str) -> int:
    """The number of cycles in the database; exits where one of them is not whole."""
    history = History(url)
    states, progress = history.load_alert_states(), history.load_progress()
    incidents = {one.incident_id: one for one in history.incidents(limit=1_000_000)}
    n_cycles = len(states)
    for n in range(n_cycles):
        expected = cycle(n)
        (incident,) = expected.incidents
        if (
            states.get(subject(n)) != expected.states[0]
            or incidents.get(incident.incident_id) != incident
            or progress.get(subject(n)) != expected.progress[0]
        ):
            sys.exit(f"cycle {n} of {n_cycles} is torn")
    rows = [len(history.pending(sink, limit=1_000_000, now_s=4e9)) for sink in SINKS]
    if rows != [n_cycles] * len(SINKS) or len(incidents) != n_cycles:
        sys.exit(f"{n_cycles} cycles, {len(incidents)} incidents, {rows} rows")
    if n_cycles and progress[subject(-1)] != cycle(n_cycles - 1).progress[1]:
        sys.exit("the progress is not that of the last cycle")
    history.close()
    return n_cycles


def main(url: str, kills: int, seed: int) -> None:
    chance, acknowledged = random.Random(seed), 0
    for _ in range(kills):
        acknowledged += live_and_die(url, chance)
        found = whole_cycles(url)
        print(f"seed={seed} acknowledged={acknowledged} found={found}", flush=True)
        if found < acknowledged:
            sys.exit("a cycle that was acknowledged is lost")
        acknowledged = found  # a commit may have been durable before it was acknowledged


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
