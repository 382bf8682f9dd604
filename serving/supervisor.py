"""Watches a local server and mends it: a model whose process died, a Triton that ended, a Triton that hangs."""

import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Protocol

from chextriev.errors import DeadlineExpired, Overloaded, ServerNotStarted, ServerUnavailable, ServingError
from chextriev.serving.canary import ServerControl
from chextriev.serving.leftovers import ServerProcess, end_process
from chextriev.serving.server_settings import ServerSettings

FAILURES = 3
"""Canaries in a row without an answer that mean a server that hangs."""
FULL_S = 300.0
"""A queue that is full is no failure, but one that stays full this long while nothing is answered is."""
UNLOAD_S = 1.5
"""How long a model whose process died is given to be unloaded."""
LOAD_S = 60.0
_POLL_S = 0.1
_LONGEST_PAUSE_S = 60.0


@dataclass(frozen=True)
class ServerEvent:
    """Something that happened to a server, in our own words. at: seconds since 1970.

    detail: what Triton said of it, which the log does without.
    """

    kind: str
    text: str
    at: float
    detail: str = ""


class Supervised(Protocol):
    """A server, as its supervisor needs it."""

    @property
    def control(self) -> ServerControl:
        """What to ask it with."""

    def ended(self) -> bool:
        """Whether Triton or its guardian has ended."""

    def processes(self) -> list[ServerProcess]:
        """Its living processes."""

    def restart(self) -> None:
        """End it and start it again on the same ports; ServerNotStarted where that fails."""

    def record(self, kind: str, text: str, detail: str = "") -> None:
        """Note an event."""


class Supervisor:
    """A thread that looks at a server once every `watch_s`, and sends it a canary when nothing else was answered."""

    def __init__(self, server: Supervised, settings: ServerSettings) -> None:
        self._server, self._settings = server, settings
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chextriev supervisor", daemon=True)
        self._begin()

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer; what is being mended is left as it is."""
        self._stopping.set()

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    def _begin(self) -> None:
        """Forget what was known of a former life of the server."""
        self._stubs = self._living_stubs()
        self._counts = Counter(process.model for process in self._stubs)
        self._failures, self._answered = 0, 0
        self._last_answer = self._next_canary = time.monotonic()
        self._next_canary += self._settings.canary_s

    def _run(self) -> None:
        while not self._stopping.wait(self._settings.watch_s):
            self.look()

    def look(self) -> None:
        """Look once, and mend what is broken."""
        if self._server.ended():
            self._restart("server ended", "Triton ended by itself")
            return
        self._mend_models()
        if time.monotonic() >= self._next_canary:
            self._look_for_life()

    def _mend_models(self) -> None:
        """Load anew each model that lost a process."""
        known, alive = self._stubs, self._living_stubs()
        self._stubs = alive
        for model in sorted({str(process.model) for process in known - alive}):
            former = {process for process in known if process.model == model}
            if not self._server.ended() and self._mend_model(model):
                self._stubs = self._living_stubs()
                for process in former:  # of a model with several processes, the others serve nobody now
                    end_process(process)
                self._stubs -= former

    def _mend_model(self, model: str) -> bool:
        """Load a model anew; False where that is not needed, or Triton was restarted for it.

        Not needed: it is unloaded, or has all its processes. A process more, which ends soon, is one that Triton starts
        to ask a model for its configuration.
        """
        control = self._server.control
        try:
            if control.models().get(model) != "READY":
                return False
            if sum(process.model == model for process in self._living_stubs()) >= self._counts[model]:
                return False
            self._server.record("model died", f"a process of {model} died; the model is loaded anew")
            control.unload(model)
            self._await_unloaded(control, model)
            control.load(model, timeout_s=LOAD_S)
            control.check_canary()
        except ServingError as error:
            self._restart("reload failed", f"{model} could not be loaded anew ({type(error).__name__})", str(error))
            return False
        self._server.record("model reloaded", f"{model} answers again")
        return True

    def _await_unloaded(self, control: ServerControl, model: str) -> None:
        """Wait a little for the model to be unloaded.

        A process that died within an inference holds locks in the memory that it shares with Triton, and the unloading
        never ends; the model can be loaded beside that.
        """
        deadline = time.monotonic() + UNLOAD_S
        while control.models().get(model) in ("READY", "UNLOADING") and time.monotonic() < deadline:
            self._stopping.wait(_POLL_S)

    def _living_stubs(self) -> set[ServerProcess]:
        return {process for process in self._server.processes() if process.model}

    def _look_for_life(self) -> None:
        """Restart a server that answers nothing; one that answered anything since the last look needs no canary."""
        control, now = self._server.control, time.monotonic()
        self._next_canary = now + self._settings.canary_s
        try:
            answered = control.answered()
            if answered == self._answered:
                control.check_canary(timeout_s=self._settings.canary_timeout_s)
                answered = control.answered()
        except Overloaded:
            if now - self._last_answer > FULL_S:
                self._restart("server hangs", f"its queue is full and nothing was answered for {FULL_S:g} s")
        except (ServerUnavailable, DeadlineExpired) as error:
            self._failures += 1
            said = f"{self._failures} of {FAILURES} ({type(error).__name__})"
            self._server.record("canary failed", said, str(error))
            if self._failures >= FAILURES:
                self._restart("server hangs", f"{FAILURES} canaries in a row got no answer")
        else:
            self._failures, self._answered, self._last_answer = 0, answered, now

    def _restart(self, kind: str, text: str, detail: str = "") -> None:
        """Start the server again, until it works; the pauses between grow."""
        if self._stopping.is_set():
            return
        self._server.record(kind, f"{text}; it is started again", detail)
        pause_s = 1.0
        while not self._stopping.is_set():
            try:
                self._server.restart()
                self._begin()
                self._server.record("server restarted", "every ensemble answers")
                return
            except ServerNotStarted as error:
                if self._stopping.is_set():
                    return
                self._server.record("restart failed", f"the next try is in {pause_s:g} s", str(error))
            self._stopping.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
