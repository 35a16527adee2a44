"""Every form of a line of the time line, with an example and its meaning.

The reference page of the scenario format is written from here, and a test reads every example, so a
verb that is not explained cannot be used and an explanation that is not true is found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One way to write a line, for the reference page."""

    form: str
    example: str  # with its time: a whole line
    meaning: str

    @property
    def verb(self) -> str:
        return self.form.split()[0]


FORMS: Final[tuple[Form, ...]] = (
    Form(
        form="power NODE off|on",
        example="at 10 power n1 off",
        meaning="The plug of the node is pulled: daemon and guests are gone at once, its disk "
        "stays. `on`: it boots with another boot id and starts its daemon.",
    ),
    Form(
        form="shutdown NODE",
        example="at 10 shutdown n1",
        meaning="An orderly shutdown: every guest is stopped and reported as stopped, then the "
        "power is off until `power NODE on`.",
    ),
    Form(
        form="reboot NODE",
        example="at 10 reboot n1",
        meaning="As `shutdown`; the power is on again 30 s after it went off.",
    ),
    Form(
        form="network ENDPOINT off|on [from PEER] [in|out]",
        example="at 10 network n1 off from broker out",
        meaning="The way between ENDPOINT (a node, `api`, `scheduler`, `monitor`, or one replica) "
        "and PEER (`broker`, `database`, `storage` or a node) is cut or healed. Without "
        "PEER: everything that ENDPOINT talks to. `in` or `out`: only that direction, seen "
        "from ENDPOINT. BMCs have a network of their own and are never touched by it. A node that "
        "was fenced meanwhile is switched off: only `power NODE on` brings it back.",
    ),
    Form(
        form="kill SERVICE[@NODE]",
        example="at 10 kill compute@n1",
        meaning="kill -9 in the middle of whatever it does; its supervisor starts it again after 5 "
        "s. A killed daemon touches no guest.",
    ),
    Form(
        form="stop SERVICE[@NODE]",
        example="at 10 stop monitor",
        meaning="The service manager stops it (SIGTERM, it ends in good order) and it stays stopped"
        " until `start`. A stopped daemon touches no guest.",
    ),
    Form(
        form="start SERVICE[@NODE]",
        example="at 90 start monitor",
        meaning="The service manager starts it again after `stop`.",
    ),
    Form(
        form="hang SERVICE[@NODE]",
        example="at 10 hang scheduler-1",
        meaning="SIGSTOP: it does nothing, but its connections stay open and time goes on.",
    ),
    Form(
        form="resume SERVICE[@NODE]",
        example="at 70 resume scheduler-1",
        meaning="SIGCONT after `hang`: it goes on where it was, with timers long overdue.",
    ),
    Form(
        form="broker off|on|alarm",
        example="at 10 broker off",
        meaning="`off`: the broker is killed with kill -9; durable queues and messages are on its "
        "disk. `alarm`: a memory or disk alarm, publishes hang. `on`: all is well again.",
    ),
    Form(
        form="database off|on|slow|readonly",
        example="at 10 database off",
        meaning="`off`: no connection works. `slow`: every answer takes long. `readonly`: writes "
        "are refused. `on`: all is well again.",
    ),
    Form(
        form="database lose-ack [TIMES]",
        example="at 10 database lose-ack 3",
        meaning="The next TIMES commits (1 unless given) happen, and whoever asked for them sees "
        "only its connection end.",
    ),
    Form(
        form="database save|restore",
        example="at 10 database save",
        meaning="`save` remembers the content, `restore` goes back to it: a backup was restored. "
        "From then on it is another database, and it says so.",
    ),
    Form(
        form="bus lose|duplicate|delay|reorder PERCENT",
        example="at 10 bus duplicate 20",
        meaning="From now on this share of all messages, each on its way in and on its way out, is "
        "lost, comes twice, late, or after its successor. Several kinds add up; 0 ends one "
        "kind. Old heartbeats look like life, so deaths are noticed later: leave minutes, or "
        "`bus calm` before a `confirm-down`.",
    ),
    Form(
        form="bus calm",
        example="at 60 bus calm",
        meaning="All noise on the bus ends.",
    ),
    Form(
        form="bmc NODE off|on|slow|lies|wrong",
        example="at 5 bmc n1 lies",
        meaning="The node's BMC: `off` does not answer, `slow` answers after 60 s, `lies` accepts "
        "the order and does nothing, `wrong` is that of another machine, `on` is well "
        "again.",
    ),
    Form(
        form="storage NODE off|on|slow|locked",
        example="at 10 storage n1 off",
        meaning="The node's way to the shared storage: `off` lets I/O and starts hang, `slow` makes"
        " a start take 10 s longer, `locked` refuses starts because image locks are left "
        "over (`storage_locked`), `on` is well again.",
    ),
    Form(
        form="libvirt NODE hang|resume|kill|slow",
        example="at 10 libvirt n1 hang",
        meaning="The node's libvirt: `hang` lets calls hang, `kill` loses the connection and is "
        "back after 5 s, `slow` makes starts take 300 s, `resume` is well again. Guests "
        "live on.",
    ),
    Form(
        form="guest INSTANCE poweroff|crash|panic|hang|lost",
        example="at 10 guest web-1 crash",
        meaning="What the guest does by itself: it shuts down, its qemu dies, its kernel panics, it"
        " executes and does nothing, or it ends and the hypervisor forgets it without a "
        "word.",
    ),
    Form(
        form="guest INSTANCE refuse-start|die-early [TIMES]",
        example="at 10 guest web-1 refuse-start 2",
        meaning="The next TIMES starts of it (1 unless given), on any node, fail, or the guest ends"
        " 1 s after its start.",
    ),
    Form(
        form="disk NODE save|restore",
        example="at 10 disk n1 save",
        meaning="The node's own disk with its daemon's journal (not the guests' disks): remembered,"
        " or gone back to. `restore` only while the node is off.",
    ),
    Form(
        form="identity NODE of NODE2",
        example="at 10 identity n2 of n1",
        meaning="From its next boot the node's daemon has NODE2's identity and credentials, as "
        "after cloning a disk.",
    ),
    Form(
        form="identity NODE own",
        example="at 90 identity n2 own",
        meaning="From its next boot it is itself again.",
    ),
    Form(
        form="clock TARGET jump SECONDS",
        example="at 10 clock monitor jump -3600",
        meaning="The wall clock of a node or service is set forward, or back when negative.",
    ),
    Form(
        form="clock TARGET rate PERCENT",
        example="at 10 clock n1 rate 1",
        meaning="The clocks of a node or service run so much fast (slow when negative, well again "
        "with 0): all that it waits for comes too early.",
    ),
    Form(
        form="evac ARGS...",
        example='at 30 evac node fence n1 --reason "smoke in the rack"',
        meaning="A command of the operator (docs/reference/commands.md), with quotes as in a shell."
        " Time goes on while it waits. If it fails, the run fails. Its options are checked when "
        "the line runs, and the log shows that it was done, not what it printed. Often used: "
        '`evac cluster disarm --for 60 --reason "..."` (seconds), `evac cluster arm`, '
        '`evac cluster storm release --reason "..."`, `evac node fence NODE --reason "..."`, '
        '`evac node confirm-down NODE --confirm NODE --reason "..."`, '
        "`evac instance stop|start NAME`.",
    ),
    Form(
        form="evac? ARGS...",
        example='at 30 evac? node confirm-down n1 --confirm n1 --reason "looks dead"',
        meaning="The same, and it may fail: the log shows its exit code either way.",
    ),
    Form(
        form="end",
        example="at 300 end",
        meaning="The run ends and the expectations are judged. The last line, and no other.",
    ),
)
