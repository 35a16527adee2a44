"""The protocol of ownership as a state machine: two nodes, one instance, and a hostile world.

What a real cluster does in many lines stands here in one rule each, so that every interleaving can
be looked at. A message that was once published stays on the bus: it may be read never, late, twice,
in any order. Nodes lose power and boot, the monitor suspects whom it likes, the controllers crash,
and once the database may go back to its first content.

A start is commanded, carried out and reported; registration is a report, a session command and
`session_applied`, each a message of its own. A session starts nothing.

`Flags` names what a variant lacks. The real rules stand in `evac_monitor.core.registration`,
`evac_compute.core.checks`, `evac_scheduler.core.recovery` and the ledger's triggers.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.state import (
    EPOCHS_MAX,
    FENCED,
    FENCING,
    INCARNATIONS_MAX,
    JOINING,
    LEAVING,
    NOBODY,
    RUNNING,
    STARTING,
    UP,
    Budget,
    Db,
    Gen,
    Message,
    Node,
    State,
    Step,
    changed,
    dark,
    letter,
    put,
    say,
)


class Model:
    def __init__(self, lacks: frozenset[str], budget: Budget) -> None:
        self.lacks = lacks
        self.first = State(nodes=(Node(runs=1, leftover=1), Node()), db=Db(), budget=budget)

    # --- the world -----------------------------------------------------------------------------

    def steps(self, s: State) -> Iterator[Step]:
        for here in (0, 1):
            yield from self._machine(s, here)
            yield from self._daemon(s, here)
        if s.alive:
            yield from self._monitor(s)
            yield from self._scheduler(s)
            if s.recovering:
                yield from self._recovery(s)
            if s.budget.crashes:
                spent = s.budget._replace(crashes=s.budget.crashes - 1)
                gone = s._replace(alive=False, memory=None, off=(False, False), budget=spent)
                yield "the controllers crash", True, gone
        else:
            yield "the controllers start again", False, s._replace(alive=True)
        if s.budget.regress:
            yield "THE DATABASE GOES BACK", True, self._regress(s)

    def _regress(self, s: State) -> State:
        return s._replace(
            db=self.first.db,
            term=s.term + ("no-term" not in self.lacks),
            recovering="no-inventory" not in self.lacks,
            heard=(-1, -1),
            off=(False, False),
            memory=None,
            budget=s.budget._replace(regress=s.budget.regress - 1),
        )

    def _machine(self, s: State, here: int) -> Iterator[Step]:
        node = s.nodes[here]
        if node.power and s.budget.power:
            spent = s.budget._replace(power=s.budget.power - 1)
            yield f"n{here} loses power", True, changed(s, here, dark(node))._replace(budget=spent)
        if not node.power and node.incarnation < INCARNATIONS_MAX:
            back = node.leftover if "autostart" in self.lacks else 0
            booted = Node(
                incarnation=node.incarnation + 1,
                session=NOBODY,
                runs=back,
                tomb=node.tomb,
                leftover=back,
            )
            yield f"n{here} boots", False, changed(s, here, booted)
        if node.power and node.begins:
            run = node._replace(runs=node.begins, begins=0, leftover=node.begins)
            yield f"n{here} carries out the start of {node.begins}", False, changed(s, here, run)

    # --- compute -------------------------------------------------------------------------------

    def _daemon(self, s: State, here: int) -> Iterator[Step]:
        node = s.nodes[here]
        if not node.power:
            return
        if node.session == NOBODY or self._is_asked(s, here):
            message: Message = ("registered", here, node.incarnation, node.session[0], node.runs)
            yield from say(s, message)
        if node.session != NOBODY:
            told: Message = ("inventory", here, *node.session, node.runs)
            if s.recovering and ("quiet" in self.lacks or not node.begins):
                yield from say(s, told)
            if node.runs:
                yield from say(s, ("started", here, *node.session, node.runs))
        for message in s.bus:
            if message[1] != here:
                continue
            match message:
                case ("session", _, int(term), int(incarnation), int(superseded)):
                    yield from self._enter(s, here, (term, incarnation), superseded)
                case ("start", _, int(term), int(incarnation), int(epoch)):
                    yield from self._start(s, here, (term, incarnation), epoch)
                case ("stop", _, int(term), int(incarnation), int(epoch)):
                    yield from self._stop(s, here, (term, incarnation), epoch)
                case _:
                    pass

    def _is_asked(self, s: State, here: int) -> bool:
        """A session of a higher term for an earlier life: the controllers must be told."""
        node = s.nodes[here]
        return any(
            message[:2] == ("session", here)
            and message[2] > node.session[0]  # type: ignore[operator] # terms are numbers
            and message[3] < node.incarnation  # type: ignore[operator]
            for message in s.bus
        )

    def _enter(self, s: State, here: int, gen: Gen, superseded: int) -> Iterator[Step]:
        node = s.nodes[here]
        if gen[1] != node.incarnation or gen[0] < node.session[0] or gen == node.session:
            return
        if node.begins and "quiet" not in self.lacks:
            return  # what the earlier term began must end first
        runs = 0 if node.runs <= superseded else node.runs
        tomb = max(node.tomb, superseded)
        then = changed(s, here, node._replace(session=gen, runs=runs, tomb=tomb, leftover=runs))
        applied: Message = ("applied", here, *gen)
        yield f"n{here} enters session {gen}", False, then._replace(bus=s.bus | {applied})

    def _start(self, s: State, here: int, gen: Gen, epoch: int) -> Iterator[Step]:
        node = s.nodes[here]
        in_session = node.session == gen or "no-gen" in self.lacks
        fresh = epoch > node.tomb or "no-tombstone" in self.lacks
        if node.session == gen and not fresh:
            yield from say(s, ("stopped", here, *gen, epoch))  # released here earlier
        if in_session and fresh and not node.runs and not node.begins:
            then = changed(s, here, node._replace(begins=epoch))
            yield f"n{here} accepts the start of {epoch}", False, then

    def _stop(self, s: State, here: int, gen: Gen, epoch: int) -> Iterator[Step]:
        node = s.nodes[here]
        done: Message = ("stopped", here, *gen, epoch)
        if node.session != gen or node.runs > epoch or node.begins or done in s.bus:
            return
        buried = node._replace(runs=0, leftover=0, tomb=max(node.tomb, epoch))
        then = changed(s, here, buried)._replace(bus=s.bus | {done})
        yield f"n{here} releases {epoch}", False, then

    # --- monitor -------------------------------------------------------------------------------

    def _monitor(self, s: State) -> Iterator[Step]:
        for here in (0, 1):
            state, gen = s.db.states[here], s.db.gens[here]
            if state in (UP, JOINING) and s.budget.suspicions:
                spent = s.budget._replace(suspicions=s.budget.suspicions - 1)
                yield from self._suspect(s._replace(budget=spent), here)
            if state == FENCING and not s.off[here]:
                verified = "ack-unverified" not in self.lacks
                after = changed(s, here, dark(s.nodes[here])) if verified else s
                off = put(s.off, here, value=True)
                yield f"n{here}: its power is read as off", False, after._replace(off=off)
            if s.off[here] and (state == FENCING or "no-cas" in self.lacks):
                yield f"n{here} is proven dead", False, self._fenced(s, here)
            if state in (UP, JOINING) and gen[0] < s.term:
                # Unasked, and without taking anything away: what the node shows is not known.
                message: Message = ("session", here, s.term, gen[1], 0)
                known = s.db._replace(
                    states=letter(s.db.states, here, JOINING),
                    gens=put(s.db.gens, here, value=(s.term, gen[1])),
                )
                then = s._replace(db=known, bus=s.bus | {message})
                yield f"n{here} is given a session of term {s.term}", False, then
        for message in s.bus:
            match message:
                case ("registered", int(here), int(incarnation), int(term), int(runs)):
                    yield from self._register(s, here, incarnation, term, runs)
                case ("applied", int(here), int(term), int(incarnation)):
                    right = s.db.gens[here] == (term, incarnation)
                    if right and s.db.states[here] == JOINING:
                        states = letter(s.db.states, here, UP)
                        yield f"n{here} is up", False, s._replace(db=s.db._replace(states=states))
                case _:
                    pass

    def _suspect(self, s: State, here: int) -> Iterator[Step]:
        if "no-fence" in self.lacks:
            yield f"n{here} is silent and taken for dead", True, self._fenced(s, here)
            return
        # While recovering only an operator decides this; the step is the same.
        fencing = s.db._replace(states=letter(s.db.states, here, FENCING))
        then = s._replace(db=fencing, off=put(s.off, here, value=False))
        yield f"n{here} is to be cut off", True, then

    def _fenced(self, s: State, here: int) -> State:
        proven = max(s.db.dead[here], s.db.gens[here][1])
        db = s.db._replace(
            states=letter(s.db.states, here, FENCED), dead=put(s.db.dead, here, value=proven)
        )
        bus = s.bus | {("down", here)} if "event-driven" in self.lacks else s.bus
        heard = put(s.heard, here, value=0) if s.recovering else s.heard
        return s._replace(db=db, off=put(s.off, here, value=False), bus=bus, heard=heard)

    def _register(
        self, s: State, here: int, incarnation: int, term: int, runs: int
    ) -> Iterator[Step]:
        db, recorded = s.db, s.db.gens[here]
        if incarnation < recorded[1] or (db.states[here] == FENCED and incarnation == recorded[1]):
            return
        if incarnation == recorded[1] and (db.states[here] == FENCING or recorded[0] == s.term):
            return  # being cut off, or it has its session: that is on the bus already
        gen = (max(s.term, term), incarnation)
        dead = max(db.dead[here], incarnation - 1)
        over = db.epoch - 1
        lost_owner = db.owner_incarnation <= db.dead[db.owner] or (
            db.owner == here and db.owner_incarnation < incarnation
        )
        if db.released or lost_owner:
            over = db.epoch
        superseded = over if 0 < runs <= over and not s.recovering else 0
        after = db._replace(
            states=letter(db.states, here, JOINING),
            gens=put(db.gens, here, value=gen),
            dead=put(db.dead, here, value=dead),
        )
        # What it showed in an earlier life of this recovery says nothing about this one.
        heard = put(s.heard, here, value=-1) if s.heard[here] > 0 else s.heard
        memory = ("todo",) if "no-outbox" in self.lacks else s.memory
        off = s.off if "no-cas" in self.lacks else put(s.off, here, value=False)
        message: Message = ("session", here, *gen, superseded)
        yield (
            f"n{here} is registered as {gen}",
            False,
            s._replace(db=after, heard=heard, off=off, memory=memory, bus=s.bus | {message}),
        )

    # --- scheduler -----------------------------------------------------------------------------

    def _scheduler(self, s: State) -> Iterator[Step]:
        db = s.db
        for message in s.bus:
            match message:
                case ("started", int(here), int(term), int(incarnation), int(epoch)):
                    known = (db.owner, db.epoch, db.gens[here]) == (
                        here,
                        epoch,
                        (term, incarnation),
                    )
                    if known and db.phase == STARTING:
                        then = s._replace(db=db._replace(phase=RUNNING))
                        yield f"{epoch} runs on n{here}", False, then
                case ("stopped", int(here), int(term), int(incarnation), int(epoch)):
                    yield from self._released(s, here, (term, incarnation), epoch)
                case ("down", int(here)) if db.owner == here:
                    yield from self._place(s, "an event says that its node is down")
                case _:
                    pass
        if s.recovering:
            return
        yield from self._send(s)
        dead = db.owner_incarnation <= db.dead[db.owner]
        if dead or db.released or ("no-fence" in self.lacks and db.states[db.owner] == FENCED):
            yield from self._place(s, "its owner is proven dead or released it")
        if "reassign-timeout" in self.lacks and db.phase == STARTING:
            yield from self._place(s, "its start takes long")
        if s.budget.moves and db.phase == RUNNING and not db.released and not dead:
            spent = s.budget._replace(moves=s.budget.moves - 1)
            leaving = s._replace(db=db._replace(phase=LEAVING), budget=spent)
            yield "its user stops it and wants it again", True, leaving
        if "publish-first" in self.lacks and s.memory and s.memory[0] == "place":
            on, number = int(s.memory[1]), int(s.memory[2])
            stored = self._owned(s, on, number)._replace(memory=None)
            yield f"what was published is stored: n{on} owns {number}", False, stored

    def _send(self, s: State) -> Iterator[Step]:
        """Commands that are missing, derived from the rows again and again."""
        db = s.db
        gen = db.gens[db.owner]
        if db.released or db.states[db.owner] != UP or gen[1] != db.owner_incarnation:
            return
        verb = "stop" if db.phase == LEAVING else "start"
        message: Message = (verb, db.owner, *gen, db.epoch)
        if message in s.bus or (verb == "start" and db.phase == RUNNING):
            return
        if "no-outbox" in self.lacks and verb == "start":
            if s.memory == ("todo",):
                then = s._replace(bus=s.bus | {message}, memory=None)
                yield f"{verb} of {db.epoch} to n{db.owner}, once", False, then
            return
        then = s._replace(bus=s.bus | {message})
        yield f"{verb} of {db.epoch} to n{db.owner}", False, then

    def _released(self, s: State, here: int, gen: Gen, epoch: int) -> Iterator[Step]:
        db = s.db
        exact = (db.owner, db.epoch, db.gens[here]) == (here, epoch, gen)
        stale = "stale-report" in self.lacks and db.owner == here and db.phase == LEAVING
        if (exact or stale) and not db.released:
            then = s._replace(db=db._replace(released=True))
            yield f"n{here} has released {epoch}", False, then

    def _place(self, s: State, why: str) -> Iterator[Step]:
        for target in (0, 1):
            if s.db.states[target] != UP or s.db.epoch >= EPOCHS_MAX:
                continue
            if target == s.db.owner and not (
                s.db.released or s.db.gens[target][1] > s.db.owner_incarnation
            ):
                continue
            epoch = s.db.epoch + 1
            if "publish-first" in self.lacks:
                if s.memory is None:
                    message: Message = ("start", target, *s.db.gens[target], epoch)
                    then = s._replace(bus=s.bus | {message}, memory=("place", target, epoch))
                    yield f"start of {epoch} to n{target}, not stored yet", False, then
                continue
            yield f"n{target} owns {epoch}: {why}", False, self._owned(s, target, epoch)

    def _owned(self, s: State, target: int, epoch: int) -> State:
        db = s.db._replace(
            owner=target,
            owner_incarnation=s.db.gens[target][1],
            epoch=epoch,
            phase=STARTING,
            released=False,
        )
        memory = ("todo",) if "no-outbox" in self.lacks else s.memory
        return s._replace(db=db, memory=memory)

    # --- the database forgot ---------------------------------------------------------------------

    def _recovery(self, s: State) -> Iterator[Step]:
        for message in s.bus:
            match message:
                case ("inventory", int(here), int(term), int(incarnation), int(runs)):
                    if s.heard[here] != -1 or s.db.gens[here] != (term, incarnation):
                        continue
                    if term == s.term and s.db.states[here] in (UP, JOINING):
                        then = s._replace(heard=put(s.heard, here, value=runs))
                        yield f"n{here} shows {runs}", False, then
                case _:
                    pass
        waits = "one-is-enough" not in self.lacks
        if min(s.heard) >= 0 or (not waits and max(s.heard) >= 0):
            yield "the recovery ends", False, self._adopt(s)

    def _adopt(self, s: State) -> State:
        db = s.db
        dead = db.released or db.owner_incarnation <= db.dead[db.owner]

        def is_over(epoch: int) -> bool:
            return epoch < db.epoch or (epoch == db.epoch and dead)

        shown = [
            (here, epoch)
            for here, epoch in enumerate(s.heard)
            if epoch > 0
            and not is_over(epoch)
            # Being cut off is not dead: its word counts until it is proven to be.
            and not ("doomed-ignored" in self.lacks and db.states[here] == FENCING)
        ]
        own = (db.owner, db.epoch)
        strangers = [copy for copy in shown if copy != own]
        if (strangers and len(shown) > 1) or any(epoch <= db.epoch for _, epoch in strangers):
            return s._replace(contested=True, recovering=False)
        for here, epoch in strangers:
            db = db._replace(
                owner=here,
                epoch=epoch,
                owner_incarnation=db.gens[here][1],
                phase=RUNNING,
                released=False,
            )
        if not strangers and own not in shown and not dead:
            db = db._replace(phase=STARTING)  # it is not there: its owner starts it again
        return s._replace(db=db, recovering=False, heard=(-1, -1))

    # --- what must hold --------------------------------------------------------------------------

    def broken(self, s: State) -> str:
        """What is wrong with this state; empty: nothing."""
        if all(node.runs for node in s.nodes):
            return "S1: it runs twice"
        if s.contested:
            return "A: a recovery cannot tell which of two copies is the living one"
        return ""

    def runs(self, s: State) -> bool:
        """It runs as recorded. At the bound of the search nothing more can be asked."""
        db = s.db
        right = not s.recovering and s.nodes[db.owner].runs == db.epoch
        bound = db.epoch >= EPOCHS_MAX or any(
            node.incarnation >= INCARNATIONS_MAX for node in s.nodes
        )
        return right or bound

    def essence(self, s: State) -> State:
        """Without messages that nobody will act on: each test is on a count that only grows."""
        keep = frozenset(message for message in s.bus if not self._is_spent(s, message))
        return s if len(keep) == len(s.bus) else s._replace(bus=keep)

    def _is_spent(self, s: State, message: Message) -> bool:
        here = int(message[1])
        node = s.nodes[here]
        match message:
            case ("start", _, int(term), int(incarnation), int(epoch)):
                old = incarnation < node.incarnation or term < node.session[0]
                tombed = epoch <= node.tomb and "no-tombstone" not in self.lacks
                told = ("stopped", here, term, incarnation, epoch) in s.bus
                return ("no-gen" not in self.lacks and old) or (tombed and told)
            case ("stop", _, int(term), int(incarnation), _):
                return incarnation < node.incarnation or term < node.session[0]
            case ("session", _, int(term), int(incarnation), _):
                asks = incarnation < node.incarnation and term > node.session[0]
                return not asks and (
                    incarnation < node.incarnation
                    or term < node.session[0]
                    or (term, incarnation) == node.session
                )
            case ("registered", _, int(incarnation), _, _) if not s.budget.regress:
                gen = s.db.gens[here]
                return incarnation < gen[1] or (incarnation, s.term) == (gen[1], gen[0])
            case ("applied", _, int(term), int(incarnation)) if not s.budget.regress:
                gen = s.db.gens[here]
                return (term, incarnation) < gen or (
                    (term, incarnation) == gen and s.db.states[here] != JOINING
                )
            case ("started" | "stopped", _, int(term), int(incarnation), int(epoch)):
                if s.budget.regress or "stale-report" in self.lacks:
                    return False
                return epoch < s.db.epoch or (term, incarnation) < s.db.gens[here]
            case ("inventory", _, int(term), int(incarnation), _):
                return not s.budget.regress and (
                    not s.recovering or term < s.term or incarnation < s.db.gens[here][1]
                )
            case _:
                return False
