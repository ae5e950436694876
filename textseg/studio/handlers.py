"""What answers an event of the page: actions in, updates of components out.

No handler raises: the browser would show "Error" and drop the next event.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from ..errors import CancelledError, TextsegError
from . import actions, controls, jobs, pictures
from .actions import Done
from .display import Display, Updates
from .exports import export
from .first_view import FirstView
from .gestures import answer
from .layout import Page
from .session import Session
from .settings import StudioSettings
from .words import BROKEN, LOST, plain, status, underway

if TYPE_CHECKING:
    from ..backbone.base import Backbone

_log = logging.getLogger(__name__)
_SETTLE_SECONDS = 0.25


class Handlers:
    """The handlers of a page.

    Args:
        page: the components.
        model: shared by all sessions.
        settings: how the studio starts.
    """

    def __init__(self, page: Page, model: Backbone, settings: StudioSettings) -> None:
        self.page, self.model, self.settings = page, model, settings
        self.display = Display(page, model)
        self.first_view = FirstView(model, settings.sample)

    def start(self) -> Updates:
        """A new visitor: a session of their own that begins with the sample's."""
        session = Session(self.model)
        try:
            first = self.first_view.session()
        except Exception:
            _log.exception("the first view cannot be made")
            actions.open_picture(session, pictures.open_sample(self.settings.sample))
        else:
            session.history.steps = list(first.history.steps)
            session.history.at = first.history.at
        layer = session.work.layer
        found = f"; “{layer.query}” is found already" if layer and layer.mask.any() else ""
        said = (
            f"This is a sample{found}. Try another name, click on the picture to correct a mask, "
            "or open a picture of your own."
        )
        shown = self.display.show(session)
        return {self.page.state: session, **shown, self.page.status: status(said)}

    def step(
        self, action: Callable[..., Done], *, tab: str = "", panel: str = ""
    ) -> Callable[..., Updates]:
        """A handler for what answers at once."""

        def handler(session: Session | None, *values: Any) -> Updates:
            if session is None:
                return self._lost()
            started = time.monotonic()
            try:
                done = action(session, *values)
                session.told = done, time.monotonic() - started
                return {
                    **self.display.show(session),
                    **self.display.turn(tab, panel),
                    self.page.status: status(done.said, done.rows, time.monotonic() - started),
                }
            except Exception as error:
                return self._failed(session, error)

        return handler

    def job(
        self,
        action: Callable[..., Done],
        *,
        tab: str = "",
        panel: str = "",
        clear: Any = None,
        unasked: bool = False,
    ) -> Callable[..., Iterator[Updates]]:
        """A handler for what takes a while: progress, a way to cancel, and the outcome.

        Args:
            clear: a text box whose text is the first value; it is emptied until the job fails.
            unasked: the user did not ask for it and is told nothing of its way.
        """

        def handler(session: Session | None, *values: Any) -> Iterator[Updates]:
            page = self.page
            if session is None:
                yield self._lost()
                return
            started = time.monotonic()
            back = {} if clear is None else {clear: values[0]}
            words = jobs.run(
                session, lambda progress: action(session, *values, progress=progress),
                unasked=unasked,
            )  # fmt: skip
            # Gradio empties every output of a generator that ends without having yielded.
            yield gr.skip() if clear is None else {clear: ""}
            try:
                for word in words:
                    if isinstance(word, Done):
                        session.told = word, time.monotonic() - started
                        said = status(word.said, word.rows, time.monotonic() - started)
                        yield {
                            **self.display.show(session),
                            **self.display.turn(tab, panel),
                            **({} if unasked else {page.status: said}),
                        }
                    elif not unasked:
                        yield {page.status: underway(word), page.cancel: gr.update(visible=True)}
            except CancelledError:
                if not unasked:
                    said = status("Cancelled. Nothing was changed.")
                    yield {**self.display.show(session), **back, page.status: said}
            except Exception as error:
                if not (unasked and isinstance(error, TextsegError)):
                    yield {**self._failed(session, error), **back}

        return handler

    def live(self, session: Session | None, level: float) -> Updates:
        """The threshold moves: a quick cut, and nothing else of the page changes."""
        page = self.page
        if session is None:
            return self._lost()
        started = time.monotonic()
        try:
            done = actions.retune(session, level=round(float(level), 4))
            session.told = done, time.monotonic() - started
            said = status(done.said, done.rows, time.monotonic() - started, timed=True)
            return {
                **self.display.stage(session),
                page.status: said,
                **self.display.approval(session),
            }
        except Exception as error:
            return {page.status: status(self._sentence(session, error), bad=True)}

    async def settle_later(self, session: Session | None) -> Any:
        """When the threshold has come to rest: the final edges."""
        if session is None:
            return gr.skip()
        mark = session.changes
        await asyncio.sleep(_SETTLE_SECONDS)
        if session.changes != mark:
            return gr.skip()
        shown = await asyncio.to_thread(self.settle_now, session)
        return shown if session.changes == mark else gr.skip()

    def settle_now(self, session: Session | None) -> Any:
        """The final edges; leaves alone what the user may be setting meanwhile."""
        try:
            if session is None or not actions.settle(session):
                return gr.skip()
            done, seconds = session.told
            said = actions.sum_up(session, done) if done is not None else ""
            told = {}
            if done is not None and said:
                told[self.page.status] = status(said, done.rows, seconds, timed=True)
            return {**self.display.show(session, controls=False), **told}
        except Exception as error:
            assert session is not None
            return self._told(session, error)

    def look(self, session: Session | None, view: str) -> Any:
        """The stage alone, as another view."""
        if session is None:
            return gr.skip()
        session.view = view
        try:
            return self.display.stage(session)
        except Exception as error:
            return self._told(session, error)

    def gesture(self, session: Session | None, event: gr.EventData) -> Updates:
        """Something was done on the picture with a pointer."""
        return self.step(partial(answer, told=event._data))(session)

    def travel(self, session: Session | None, event: gr.EventData) -> Updates:
        """A step of the history was chosen."""
        return self.step(partial(controls.go, index=event._data.get("step")))(session)

    def cancel(self, session: Session | None) -> Any:
        """End the job at its next step."""
        if session is None or not jobs.cancel(session):
            return gr.skip()
        return status("Cancelling at the next step…")

    def save(self, kind: str) -> Callable[[Session | None], Updates]:
        """A handler that writes a file and hands it to the browser."""

        def handler(session: Session | None) -> Updates:
            page = self.page
            if session is None:
                return {page.file: None, **self._lost()}
            # A folder nobody can guess, emptied with Gradio's own files.
            folder = Path(page.file.GRADIO_CACHE) / secrets.token_hex(16)
            try:
                folder.mkdir(parents=True)
                path = export(session, kind, folder)
            except Exception as error:
                return {page.file: None, **self._told(session, error, "Not saved")}
            return {page.file: str(path), page.status: status(f"{path.name} is on its way.")}

        return handler

    # -- errors -----------------------------------------------------------------------------

    def _failed(self, session: Session, error: Exception) -> Updates:
        """What went wrong, with the components as the work wants them."""
        told = self._told(session, error)
        try:
            return {**self.display.show(session), **told}
        except Exception:
            _log.exception("the studio's page cannot be shown")
            return told

    def _told(
        self, session: Session, error: Exception, title: str = "That did not work"
    ) -> Updates:
        sentence = self._sentence(session, error)
        gr.Warning(escape(sentence), title=title)
        return {self.page.status: status(sentence, bad=True)}

    def _sentence(self, session: Session, error: Exception) -> str:
        """An error for the user; one nobody foresaw goes to the log."""
        if isinstance(error, TextsegError):
            return plain(error)
        name = session.work.picture.name if session.history.steps else "no picture"
        _log.error("%s: something in the studio failed", name, exc_info=error)
        return BROKEN

    def _lost(self) -> Updates:
        return {self.page.status: status(LOST, bad=True)}
