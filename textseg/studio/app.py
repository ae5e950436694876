"""What happens when something on the page is used: actions in, updates of components out."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from ..errors import CancelledError, TextsegError
from . import actions, jobs, pictures
from .actions import Done
from .exports import export
from .layout import Page, build_page
from .settings import StudioSettings
from .snippets import commands, python_code
from .state import Correction, Session
from .theme import script
from .views import apart, look, to_paint_on

if TYPE_CHECKING:
    from ..backbone.base import Backbone

_log = logging.getLogger(__name__)
_SETTLE_SECONDS = 0.25
_SMALL_MODEL = 256
_LOST = "The studio was started again. Reload the page to go on."

Updates = dict[Any, Any]


def build(model: Backbone, settings: StudioSettings) -> gr.Blocks:
    """The studio over a loaded model; see `textseg.studio.build_app`."""
    with gr.Blocks(
        title="textseg studio", analytics_enabled=False, fill_width=True, delete_cache=(600, 7200)
    ) as blocks:
        page = build_page(model.name, actions.edit_options(Session(model)))
        Wiring(page, model, settings).connect(blocks)
    return blocks


class Wiring:
    """Connects the page's components with the actions.

    Args:
        page: the components.
        model: shared by all sessions.
        settings: how the studio starts.
    """

    def __init__(self, page: Page, model: Backbone, settings: StudioSettings) -> None:
        self.page, self.model, self.settings = page, model, settings
        self._first: Session | None = None
        self._first_lock = threading.Lock()

    def connect(self, blocks: gr.Blocks) -> None:
        """Attach every event."""
        page = self.page
        everything = [part for part in _flat(page) if part not in (page.state, page.file)]
        always: dict[str, Any] = {
            "show_progress": "hidden", "api_visibility": "private", "concurrency_limit": 16,
        }  # fmt: skip
        mine = [page.state]
        settled = {
            "fn": self.settle_now, "inputs": mine, "outputs": everything,
            **always, "trigger_mode": "multiple",
        }  # fmt: skip
        blocks.load(self.start, None, [page.state, *everything], js=script(), **always)

        def on(listeners: list[Any], action: Callable[..., Done], *inputs: Any, **more: Any) -> Any:
            return gr.on(listeners, self.step(action, **more), [*mine, *inputs], everything,
                         **always)  # fmt: skip

        def job(
            listeners: list[Any],
            action: Callable[..., Done],
            *inputs: Any,
            mode: Any = "once",
            **more: Any,
        ) -> Any:
            event = gr.on(listeners, self.job(action, **more), [*mine, *inputs], everything,
                          **always, trigger_mode=mode)  # fmt: skip
            event.then(**settled)
            return event

        for event in (
            on([page.upload.upload], self._open, page.upload, tab="look", panel="find"),
            job([page.make.click, page.make_prompt.submit], self._make, page.make_prompt,
                page.make_seed, tab="look", panel="find"),
        ):  # fmt: skip
            event.success(self.job(self._describe, unasked=True), mine, everything, **always)
        for name, button in page.samples.items():
            on([button.click], partial(self._open_sample, name=name), tab="look", panel="find")

        job([page.find.click, page.query.submit], _ask, page.query, tab="look",
            clear=page.query, mode="multiple")  # fmt: skip
        for button in page.suggestions:
            job([button.click], _ask, button, tab="look")
        on([page.found.input], _select, page.found)
        on([page.remove.click], actions.remove)
        job([page.describe.click], self._describe)
        on([page.caption.blur, page.caption.submit], _recaption, page.caption)

        page.view.input(self.look, [*mine, page.view], [page.stage, page.status], **always)
        for tab in (page.look_tab, page.paint_tab, page.after_tab):
            tab.select(partial(self.turned, painting=tab is page.paint_tab), mine,
                       [page.editor, page.status], **always)  # fmt: skip

        page.level.input(
            self.live, [*mine, page.level], everything, **always, trigger_mode="always_last"
        ).then(self.settle_later, mine, everything, **always, trigger_mode="multiple")
        on([page.refinement.input], _refine, page.refinement).then(**settled)
        on([page.rule.input], _rule, page.rule).then(**settled)
        on([page.anyway.click], _anyway).then(**settled)
        job([page.reference.input], _reference, page.reference)
        job([page.samples_drawn.release], _samples, page.samples_drawn)
        job([page.strength.release], _strength, page.strength)

        for button, kind in ((page.grow, "grow"), (page.shrink, "shrink"), (page.invert, "invert")):
            on([button.click], partial(_correct, kind=kind))
        on([page.reset.click], actions.undo_corrections)
        on([page.paint.click], partial(_paint, kind="add"), page.editor)
        on([page.erase.click], partial(_paint, kind="erase"), page.editor)
        on([page.approve.click], actions.approve, panel="edit")
        job([page.edit.click, page.prompt.submit], _edit, page.prompt, page.ratio, page.guidance,
            page.steps, tab="after")  # fmt: skip
        on([page.go_on.click], _go_on, tab="look", panel="find")
        page.cancel.click(self.cancel, mine, [page.status], queue=False,
                          show_progress="hidden", api_visibility="private")  # fmt: skip

        on([page.undo.click], partial(_travel, by=-1))
        on([page.redo.click], partial(_travel, by=1))
        on([page.history.input], _go, page.history)
        for kind, button in page.saves.items():
            button.click(self.save(kind), mine, [page.file, page.status], **always).success(
                None, [page.file], None, js=_FETCH
            )

    # -- how an event is answered -----------------------------------------------------------

    def start(self) -> Updates:
        """A new visitor: a session of their own that begins with the sample's."""
        session = Session(self.model)
        try:
            first = self._first_view()
        except Exception:
            _log.exception("the first view cannot be made")
            actions.open_picture(session, pictures.open_sample(self.settings.sample))
        else:
            session.history.steps = list(first.history.steps)
            session.history.at = first.history.at
        layer = session.work.layer
        found = f"; “{layer.query}” is found already" if layer and layer.mask.any() else ""
        status = _status(
            f"This is a sample{found}. Try another name, or open a picture of your own."
        )
        return {self.page.state: session, **self.show(session), self.page.status: status}

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
                    **self.show(session),
                    **self._turn(session, tab, panel),
                    self.page.status: _status(done.said, done.rows, time.monotonic() - started),
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
                        said = _status(word.said, word.rows, time.monotonic() - started)
                        yield {
                            **self.show(session),
                            **self._turn(session, tab, panel),
                            **({} if unasked else {page.status: said}),
                        }
                    elif not unasked:
                        yield {page.status: _underway(word), page.cancel: gr.update(visible=True)}
            except CancelledError:
                if not unasked:
                    said = _status("Cancelled. Nothing was changed.")
                    yield {**self.show(session), **back, page.status: said}
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
            image = apart(look(session.work, session.view))
            said = _status(done.said, done.rows, time.monotonic() - started, timed=True)
            return {page.stage: image, page.status: said, **self._approval(session)}
        except Exception as error:
            return {page.status: _status(self._sentence(session, error), bad=True)}

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
            said = actions.sum_up(session, done.about) if done is not None else ""
            told = {}
            if done is not None and said:
                told[self.page.status] = _status(said, done.rows, seconds, timed=True)
            return {**self.show(session, controls=False), **told}
        except Exception as error:
            assert session is not None
            return self._told(session, error)

    def look(self, session: Session | None, view: str) -> Any:
        """The stage alone, as another view."""
        if session is None:
            return gr.skip()
        session.view = view
        try:
            return {self.page.stage: apart(look(session.work, view))}
        except Exception as error:
            return self._told(session, error)

    def turned(self, session: Session | None, *, painting: bool) -> Any:
        """Another tab of the stage is in sight."""
        if session is None:
            return gr.skip()
        session.painting, session.ground = painting, session.work.layer
        try:
            return {self.page.editor: self._ground(session)} if painting else gr.skip()
        except Exception as error:
            return self._told(session, error)

    def cancel(self, session: Session | None) -> Any:
        """End the job at its next step."""
        if session is None or not jobs.cancel(session):
            return gr.skip()
        return _status("Cancelling at the next step…")

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
            return {page.file: str(path), page.status: _status(f"{path.name} is on its way.")}

        return handler

    # -- what the page shows ----------------------------------------------------------------

    def show(self, session: Session, *, controls: bool = True) -> Updates:
        """The components as the session's work wants them.

        Args:
            controls: also those that the user sets.
        """
        page, work = self.page, session.work
        layer, edit = work.layer, work.edit
        updates: Updates = {
            page.stage: apart(look(work, session.view)),
            page.history: gr.update(
                choices=[(step.label, i) for i, step in enumerate(session.history.steps)],
                value=session.history.at,
            ),
            page.python: python_code(session),
            page.shell: commands(session),
            page.undo: gr.update(interactive=session.history.at > 0),
            page.redo: gr.update(interactive=session.history.at < len(session.history.steps) - 1),
            page.go_on: gr.update(interactive=work.edit is not None),
            page.after: None
            if edit is None or edit.source is None
            else (apart(edit.source), apart(edit.image)),
            **self._approval(session),
            **self._queries(session),
        }
        for button in (page.grow, page.shrink, page.invert, page.remove, page.paint, page.erase):
            updates[button] = gr.update(interactive=layer is not None)
        updates[page.reset] = gr.update(interactive=bool(layer and layer.corrections))
        for kind in ("mask", "cutout", "coco"):
            updates[page.saves[kind]] = gr.update(interactive=layer is not None)
        updates[page.saves["edit"]] = gr.update(interactive=work.edit is not None)
        if session.painting and session.ground is not layer:
            session.ground = layer
            updates[page.editor] = self._ground(session)
        return updates | (self._controls(session) if controls else {})

    def _queries(self, session: Session) -> Updates:
        page, work = self.page, session.work
        things = work.picture.things
        updates: Updates = {
            page.found: gr.update(
                choices=[(one.query, i) for i, one in enumerate(work.layers)],
                value=work.selected if work.layers else None,
                visible=bool(work.layers),
            ),
            page.attempt: gr.update(visible=bool(things)),
        }
        for i, button in enumerate(page.suggestions):
            thing = things[i] if i < len(things) else ""
            updates[button] = gr.update(value=thing, visible=bool(thing))
        return updates

    def _controls(self, session: Session) -> Updates:
        page, work = self.page, session.work
        layer = work.layer
        contrast = layer.found.contrast_options if layer else work.contrast
        refine = layer.refine if layer else work.refine
        emptied = layer is not None and layer.found.presence < refine.min_presence
        return {
            page.caption: work.caption,
            page.level: refine.level,
            page.refinement: actions.refinement_name(session, refine) or None,
            page.reference: contrast.reference,
            page.rule: refine.threshold,
            page.samples_drawn: contrast.samples,
            page.strength: contrast.strength[0],
            page.anyway: gr.update(visible=emptied),
            page.cancel: gr.update(visible=False),
        }

    def _approval(self, session: Session) -> Updates:
        page, work = self.page, session.work
        some = work.layer is not None and bool(work.layer.mask.any())
        hint = "First find something and approve its mask; then it can be changed here."
        if work.approved and work.layer is not None:
            hint = f"“{work.layer.query}” is approved. Say what it becomes."
        if caveat := self.model.caveats.get("paint"):
            hint += f" ({caveat})"
        return {
            page.approve: gr.update(
                value="Approved ✓" if work.approved else "Approve this mask",
                interactive=some and not work.approved,
                variant="secondary" if work.approved else "primary",
            ),
            page.edit: gr.update(interactive=work.approved),
            page.edit_hint: f'<p class="ts-note">{escape(hint)}</p>',
        }

    def _ground(self, session: Session) -> dict[str, Any]:
        return {"background": apart(to_paint_on(session.work)), "layers": [], "composite": None}

    def _turn(self, session: Session, tab: str, panel: str) -> Updates:
        turned: Updates = {}
        if tab:
            session.painting = False
            turned[self.page.tabs] = gr.update(selected=tab)
        if panel:
            turned[self.page.panel] = gr.update(selected=panel)
        return turned

    # No handler of an event raises: the browser would show "Error" and drop the next event.

    def _failed(self, session: Session, error: Exception) -> Updates:
        """What went wrong, with the components as the work wants them."""
        told = self._told(session, error)
        try:
            return {**self.show(session), **told}
        except Exception:
            _log.exception("the studio's page cannot be shown")
            return told

    def _told(
        self, session: Session, error: Exception, title: str = "That did not work"
    ) -> Updates:
        sentence = self._sentence(session, error)
        gr.Warning(escape(sentence), title=title)
        return {self.page.status: _status(sentence, bad=True)}

    def _sentence(self, session: Session, error: Exception) -> str:
        """An error for the user; one nobody foresaw goes to the log."""
        if isinstance(error, TextsegError):
            return plain(error)
        name = session.work.picture.name if session.history.steps else "no picture"
        _log.error("%s: something in the studio failed", name, exc_info=error)
        return _BROKEN

    def _lost(self) -> Updates:
        return {self.page.status: _status(_LOST, bad=True)}

    # -- actions that need the settings -----------------------------------------------------

    def _first_view(self) -> Session:
        """A session in which a thing of the sample is found already; worked out once."""
        with self._first_lock:
            if self._first is None:
                picture = pictures.open_sample(self.settings.sample)
                # On a processor a full-size model takes minutes for what nobody asked.
                slow = self.model.device.type == "cpu" and self.model.native_size > _SMALL_MODEL
                for thing in ("",) if slow else picture.things:
                    first = Session(self.model)
                    actions.open_picture(first, picture)
                    if thing:
                        actions.ask(first, thing)
                        actions.settle(first)
                    self._first = first
                    if first.work.layer and first.work.layer.mask.any():
                        break
            assert self._first is not None
            return self._first

    def _open(self, session: Session, path: str | None) -> Done:
        picture = pictures.open_file(path or "", max_pixels=self.settings.max_pixels)
        return actions.open_picture(session, picture)

    def _open_sample(self, session: Session, *, name: str) -> Done:
        return actions.open_picture(session, pictures.open_sample(name))

    def _make(self, session: Session, prompt: str, seed: float | None, *, progress: Any) -> Done:
        made = pictures.make_picture(self.model, prompt or "", int(seed or 0), progress)
        return actions.open_picture(session, made)

    def _describe(self, session: Session, *, progress: Any) -> Done:
        return actions.describe(session, self.settings.caption_model, progress)


_BROKEN = "Something went wrong inside the studio; its log says what."
_FETCH = """(file) => {
  if (!file?.url) return;
  const link = document.createElement("a");
  link.href = file.url;
  link.download = file.orig_name ?? file.path.split("/").pop();
  document.body.append(link);
  link.click();
  link.remove();
}"""


def plain(error: TextsegError) -> str:
    """An error's message as a sentence."""
    text = " ".join(str(error).split())
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith((".", "!", "?")) else ".")


def _status(
    said: str, rows: int = 0, seconds: float = 0.0, *, bad: bool = False, timed: bool = False
) -> str:
    cost = ""
    if rows or timed:
        cost = f"<small>{rows} UNet rows, {_duration(seconds)}</small>"
    kind = " ts-bad" if bad else ""
    opening = f'<div class="ts-status{kind}" role="status" aria-live="polite">'
    return f"{opening}<p>{escape(said)}</p>{cost}</div>"


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _underway(word: jobs.Underway) -> str:
    share = 100 * word.done / max(word.total, 1)
    return (
        f'<div class="ts-status"><p>{escape(word.said)}</p><div class="ts-progress" '
        f'role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{share:.0f}">'
        f'<div style="width:{share:.1f}%"></div></div></div>'
    )


def _flat(page: Page) -> list[Any]:
    parts: list[Any] = []
    for part in vars(page).values():
        if isinstance(part, dict):
            parts += part.values()
        elif isinstance(part, list):
            parts += part
        else:
            parts.append(part)
    return [part for part in parts if not isinstance(part, gr.Tab)]


# -- actions with the components' values ----------------------------------------------------


def _ask(session: Session, text: str, *, progress: Any) -> Done:
    return actions.ask(session, text or "", progress)


def _select(session: Session, index: int | None) -> Done:
    return actions.select(session, -1 if index is None else int(index))


def _recaption(session: Session, text: str) -> Done:
    return actions.recaption(session, text or "")


def _refine(session: Session, choice: str) -> Done:
    return actions.retune(session, **actions.refinement_of(session, choice))


def _rule(session: Session, rule: str) -> Done:
    return actions.retune(session, threshold=rule)


def _anyway(session: Session) -> Done:
    return actions.retune(session, min_presence=0.0)


def _reference(session: Session, reference: str, *, progress: Any) -> Done:
    return actions.requery(session, progress, reference=str(reference or "null"))


def _samples(session: Session, samples: float, *, progress: Any) -> Done:
    return actions.requery(session, progress, samples=int(samples))


def _strength(session: Session, strength: float, *, progress: Any) -> Done:
    return actions.requery(session, progress, strength=(round(float(strength), 4),))


def _correct(session: Session, *, kind: str) -> Done:
    pixels = 0 if kind == "invert" else actions.reach(session.work.picture)
    return actions.correct(session, Correction(kind, pixels))  # pyright: ignore[reportArgumentType]


def _paint(session: Session, value: dict[str, Any] | None, *, kind: str) -> Done:
    return actions.paint(session, kind, strokes(value))


def _edit(
    session: Session, prompt: str, ratio: float, guidance: float, steps: float, *, progress: Any
) -> Done:
    return actions.edit(
        session,
        prompt or "",
        progress,
        encode_ratio=round(float(ratio), 4),
        guidance_scale=round(float(guidance), 4),
        steps=int(steps),
    )


def _go_on(session: Session) -> Done:
    edit = session.work.edit
    if edit is None:
        return Done("There is no edit yet.")
    picture = pictures.picture_of_edit(edit, session.work.picture.name)
    return actions.open_picture(session, picture)


def _travel(session: Session, *, by: int) -> Done:
    return _go(session, session.history.at + by)


def _go(session: Session, index: int | None) -> Done:
    with session.lock:
        session.changes += 1
        session.history.go(session.history.at if index is None else int(index))
        return Done(f"Back at: {session.history.steps[session.history.at].label}.")


def strokes(value: dict[str, Any] | None) -> Any:
    """What was painted in an image editor, (h, w) bool; (1, 1) if nothing was.

    Args:
        value: of `gradio.ImageEditor`, layers (h, w, 4) uint8.
    """
    import numpy as np

    layers = [np.asarray(layer) for layer in (value or {}).get("layers", []) if layer is not None]
    if not layers:
        return np.zeros((1, 1), bool)
    return np.any([layer[..., 3] > 127 for layer in layers], axis=0)
