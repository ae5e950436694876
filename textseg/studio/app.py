"""The page and what happens when something on it is used."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr

from . import actions, controls
from .actions import Done
from .handlers import Handlers
from .layout import Page, build_page
from .session import Session
from .settings import StudioSettings
from .theme import script

if TYPE_CHECKING:
    from ..backbone.base import Backbone

_FETCH = """(file) => {
  if (!file?.url) return;
  const link = document.createElement("a");
  link.href = file.url;
  link.download = file.orig_name ?? file.path.split("/").pop();
  document.body.append(link);
  link.click();
  link.remove();
}"""
_TURN_UP = """() => {
  if (innerWidth <= 720) document.querySelector("#ts-left")?.scrollIntoView({ behavior: "smooth" });
}"""
"""On a phone, the picture is above what was pressed."""


def build(model: Backbone, settings: StudioSettings) -> gr.Blocks:
    """The studio over a loaded model; see `textseg.studio.build_app`."""
    with gr.Blocks(
        title="textseg studio", analytics_enabled=False, fill_width=True, delete_cache=(600, 7200)
    ) as blocks:
        page = build_page(model.name, actions.edit_options(Session(model)), tuple(model.nouns))
        Wiring(page, Handlers(page, model, settings), settings).connect(blocks)
    return blocks


class Wiring:
    """Connects the page's components with their handlers."""

    def __init__(self, page: Page, handlers: Handlers, settings: StudioSettings) -> None:
        self.page, self.handlers, self.settings = page, handlers, settings
        self.mine = [page.state]
        self.everything = [part for part in _flat(page) if part not in (page.state, page.file)]
        self.always: dict[str, Any] = {
            "show_progress": "hidden", "api_visibility": "private", "concurrency_limit": 16,
        }  # fmt: skip
        self.settled: dict[str, Any] = {
            "fn": handlers.settle_now, "inputs": self.mine, "outputs": self.everything,
            **self.always, "trigger_mode": "multiple",
        }  # fmt: skip

    def on(
        self, listeners: list[Any], action: Callable[..., Done], *inputs: Any, **more: Any
    ) -> Any:
        """Take an action that answers at once."""
        return gr.on(listeners, self.handlers.step(action, **more), [*self.mine, *inputs],
                     self.everything, **self.always)  # fmt: skip

    def job(
        self,
        listeners: list[Any],
        action: Callable[..., Done],
        *inputs: Any,
        mode: Any = "once",
        **more: Any,
    ) -> Any:
        """Take an action that takes a while; then the masks settle."""
        event = gr.on(listeners, self.handlers.job(action, **more), [*self.mine, *inputs],
                      self.everything, **self.always, trigger_mode=mode)  # fmt: skip
        event.then(**self.settled)
        if "tab" in more:
            event.success(None, None, None, js=_TURN_UP)
        return event

    def connect(self, blocks: gr.Blocks) -> None:
        """Attach every event."""
        gr.Button(elem_id="ts-wake").click(lambda: None, None, None, **self.always)
        blocks.load(self.handlers.start, None, [self.page.state, *self.everything], js=script(),
                    **self.always)  # fmt: skip
        self._pictures()
        self._stage()
        self._finding()
        self._correcting()
        self._editing()
        self._taking_home()

    def _pictures(self) -> None:
        page = self.page
        opened = self.on(
            [page.upload.upload],
            partial(controls.open_file, max_pixels=self.settings.max_pixels),
            page.upload, tab="look", panel="find",
        )  # fmt: skip
        made = self.job([page.make.click, page.make_prompt.submit], controls.make,
                        page.make_prompt, page.make_seed, tab="look", panel="find")  # fmt: skip
        describe = partial(controls.describe, captioner=self.settings.caption_model)
        for event in (opened, made):
            event.success(self.handlers.job(describe, unasked=True), self.mine, self.everything,
                          **self.always)  # fmt: skip
        self.job([page.describe.click], describe)
        self.on([page.caption.blur, page.caption.submit], controls.recaption, page.caption)
        for name, button in page.samples.items():
            opening = partial(controls.open_sample, name=name)
            self.on([button.click], opening, tab="look", panel="find")

    def _stage(self) -> None:
        page, handlers = self.page, self.handlers
        page.view.input(handlers.look, [*self.mine, page.view],
                        [page.stage, page.over, page.status], **self.always)  # fmt: skip
        page.cancel.click(handlers.cancel, self.mine, [page.status], queue=False,
                          show_progress="hidden", api_visibility="private")  # fmt: skip
        self.on([page.undo.click], partial(controls.travel, by=-1))
        self.on([page.redo.click], partial(controls.travel, by=1))
        page.history.click(self.handlers.travel, self.mine, self.everything, **self.always)

    def _finding(self) -> None:
        page = self.page
        self.job([page.find.click, page.query.submit], controls.ask, page.query, tab="look",
                 clear=page.query, mode="multiple")  # fmt: skip
        for button in page.suggestions:
            self.job([button.click], controls.ask, button, tab="look")
        self.on([page.found.input], controls.select, page.found)
        self.on([page.forget.click], actions.forget)
        page.level.input(
            self.handlers.live, [*self.mine, page.level], self.everything, **self.always,
            trigger_mode="always_last",
        ).then(self.handlers.settle_later, self.mine, self.everything, **self.always,
               trigger_mode="multiple")  # fmt: skip
        self.on([page.refinement.input], controls.refine, page.refinement).then(**self.settled)
        self.on([page.rule.input], controls.rule, page.rule).then(**self.settled)
        self.on([page.anyway.click], controls.anyway).then(**self.settled)
        self.job([page.reference.input], controls.reference, page.reference)
        self.job([page.samples_drawn.release], controls.samples, page.samples_drawn)
        self.job([page.strength.release], controls.strength, page.strength)

    def _correcting(self) -> None:
        page = self.page
        page.over.input(
            self.handlers.gesture, self.mine, self.everything, **self.always,
            trigger_mode="multiple",
        ).then(**self.settled)  # fmt: skip
        for button, kind in ((page.grow, "grow"), (page.shrink, "shrink"), (page.invert, "invert")):
            self.on([button.click], partial(controls.correct, kind=kind))
        self.on([page.reset.click], actions.undo_corrections).then(**self.settled)

    def _editing(self) -> None:
        page, most = self.page, self.settings.max_pixels
        self.on([page.approve.click], actions.approve, panel="edit")
        self.job([page.remove.click], controls.remove_object, tab="after")
        self.job([page.edit.click, page.prompt.submit], controls.edit, page.prompt, page.ratio,
                 page.guidance, page.steps, page.method, page.seed, page.negative,
                 page.edit_grow, tab="after")  # fmt: skip
        self.job([page.recolour.upload], partial(controls.recolour, max_pixels=most),
                 page.recolour, tab="after")  # fmt: skip
        self.job([page.extend.click], controls.extend, page.extend_prompt,
                 *page.amounts.values(), tab="after")  # fmt: skip
        self.on([page.go_on.click], controls.go_on, tab="look", panel="find")

    def _taking_home(self) -> None:
        page = self.page
        for kind, button in page.saves.items():
            saved = button.click(self.handlers.save(kind), self.mine, [page.file, page.status],
                                 **self.always, trigger_mode="multiple")  # fmt: skip
            saved.success(None, [page.file], None, js=_FETCH)


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
