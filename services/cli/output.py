"""What the commands print: results on stdout, progress and errors on stderr, colour only where it is wanted.

rich leaves colour out when NO_COLOR is set or when the stream is no terminal.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from services.core.clock import NS_PER_S, WallClock
from services.core.errors import TriptychError

EXIT_OK = 0
EXIT_FAILED = 1
"""The command ran and did not succeed: no server, a refused request, a cluster that died."""
EXIT_CANNOT_START = 2
"""Wrong options or configuration, a missing model, a busy port, too little memory."""
EXIT_INTERRUPTED = 130
"""A Ctrl-C that did not wait: during start-up, or the second one."""


class Output:
    """The command's two streams, taken when it starts: what others print later goes elsewhere (`up` sees to that)."""

    def __init__(self) -> None:
        self.out = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self.err = Console(file=sys.stderr, highlight=False, soft_wrap=True)

    def line(self, text: str = "") -> None:
        """One line of result, as it is."""
        self.out.print(text, markup=False)

    def styled(self, word: str, style: str, text: str) -> None:
        """One line of result that begins with a coloured word."""
        self.out.print(f"[{style}]{escape(word)}[/{style}]{escape(text)}")

    def json(self, data: Any) -> None:
        """The result as one JSON document."""
        self.out.print(json.dumps(data, indent=2), markup=False)

    def json_line(self, data: Any) -> None:
        """One of several JSON documents, on a line of its own."""
        self.out.print(json.dumps(data), markup=False)
        self.out.file.flush()

    def note(self, text: str) -> None:
        """One dim line beside the result."""
        self.err.print(f"[dim]{escape(text)}[/dim]")

    def error(self, text: str) -> None:
        """Why the command failed."""
        self.err.print(f"[bold red]error[/bold red]: {escape(text)}")

    @contextmanager
    def progress(self) -> Iterator[Steps]:
        """Show steps that take a while: live on a terminal, one line each elsewhere."""
        if not self.err.is_terminal:
            yield Steps(self.err, None)
            return
        columns = (
            SpinnerColumn(finished_text="[green]✓[/green]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.err) as live:
            yield Steps(self.err, live)


SVG_WIDTH = 112
FONT_FACES = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def save_svg(drawn: RenderableType, title: str, path: Path) -> None:
    """Write what a terminal would show as a picture, without fonts from elsewhere.

    Raises:
        CliError: the file cannot be written.
    """
    console = Console(file=io.StringIO(), record=True, width=SVG_WIDTH, force_terminal=True, color_system="truecolor")
    console.print(drawn)
    try:
        path.write_text(FONT_FACES.sub("", console.export_svg(title=title)), encoding="utf-8")
    except OSError as error:
        raise CliError(f"--svg {path} cannot be written: {error.strerror}") from None


class CliError(TriptychError):
    """The command's own failure."""


class Steps:
    """Steps of one command, each begun when the one before is done.

    Args:
        live: the moving display of a terminal, or None for plain lines.
    """

    def __init__(self, console: Console, live: Progress | None) -> None:
        self._console = console
        self._live = live
        self._clock = WallClock()
        self._begun_ns = self._clock.now_ns()
        self._task: TaskID | None = None
        self._name = ""
        self._quarter = 0

    def begin(self, name: str) -> None:
        """Show that `name` is being done."""
        self._name, self._quarter = name, 0
        self._begun_ns = self._clock.now_ns()
        if self._live is not None:
            self._task = self._live.add_task(escape(name), total=None)

    def say(self, detail: str, share: float | None = None) -> None:
        """Show how far the step is.

        Args:
            detail: what is done right now.
            share: between 0 and 1, or None when nobody knows.
        """
        if self._live is not None and self._task is not None:
            total = None if share is None else 1.0
            self._live.update(self._task, description=escape(f"{self._name}: {detail}"), total=total, completed=share)
        elif share is not None and int(share * 4) > self._quarter:  # a log wants four lines, not four hundred
            self._quarter = int(share * 4)
            self._console.print(f"  {self._name}: {detail} {share:.0%}", markup=False)

    def done(self, detail: str) -> None:
        """Show the step's result."""
        if self._live is not None and self._task is not None:
            text = escape(f"{self._name}: {detail}")
            self._live.update(self._task, description=text, total=1.0, completed=1.0)
        else:
            seconds = (self._clock.now_ns() - self._begun_ns) / NS_PER_S
            self._console.print(f"{self._name}: {detail} ({seconds:.1f} s)", markup=False)
