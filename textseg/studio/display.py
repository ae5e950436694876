"""What the page shows of a session's work: updates of its components."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from . import actions
from .layout import Page
from .markers import describe, over
from .session import Session
from .snippets import commands, python_code
from .strip import strip
from .views import apart, look
from .work import Layer, Work

if TYPE_CHECKING:
    from ..backbone.base import Backbone

Updates = dict[Any, Any]


class Display:
    """Shows sessions on a page.

    Args:
        page: the components.
        model: shared by all sessions.
    """

    def __init__(self, page: Page, model: Backbone) -> None:
        self.page, self.model = page, model

    def show(self, session: Session, *, controls: bool = True) -> Updates:
        """The components as the session's work wants them.

        Args:
            controls: also those that the user sets.
        """
        page, work = self.page, session.work
        layer, edit = work.layer, work.edit
        updates: Updates = {
            **self.stage(session),
            page.history: strip(session.history),
            page.python: python_code(session),
            page.shell: commands(session),
            page.undo: gr.update(interactive=session.history.at > 0),
            page.redo: gr.update(interactive=session.history.at < len(session.history.steps) - 1),
            page.go_on: gr.update(interactive=work.edit is not None),
            **self.approval(session),
            **self._queries(session),
        }
        for button in (page.grow, page.shrink, page.invert, page.forget):
            updates[button] = gr.update(interactive=layer is not None)
        updates[page.reset] = gr.update(interactive=bool(layer and layer.by_hand))
        for kind in ("mask", "cutout", "coco"):
            updates[page.saves[kind]] = gr.update(interactive=layer is not None)
        updates[page.saves["edit"]] = gr.update(interactive=work.edit is not None)
        if controls:
            updates |= self._controls(session)
        # Both pictures are sent at their full size: once is enough.
        if edit is not session.compared:
            updates[page.after] = None
            if edit is not None and edit.source is not None:
                updates[page.after] = (apart(edit.source), apart(edit.image))
            session.compared = edit
        return updates

    def stage(self, session: Session) -> Updates:
        """The picture as the session looks at it."""
        work = session.work
        picture = gr.update(value=apart(look(work, session.view)), alt_text=describe(work))
        return {self.page.stage: picture, self.page.over: over(work)}

    def _queries(self, session: Session) -> Updates:
        page, work = self.page, session.work
        things = work.picture.things
        updates: Updates = {
            page.found: gr.update(
                choices=[(_chip(one), i) for i, one in enumerate(work.layers)],
                value=work.selected if work.layers else None,
                visible=bool(work.layers),
            ),
            page.found_style: _greyed(work),
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
        return {
            page.caption: work.caption,
            page.level: refine.level,
            page.refinement: actions.refinement_name(session, refine) or None,
            page.reference: contrast.reference,
            page.rule: refine.threshold,
            page.samples_drawn: contrast.samples,
            page.strength: contrast.strength[0],
            page.anyway: gr.update(visible=layer is not None and layer.absent),
            page.cancel: gr.update(visible=False),
        }

    def approval(self, session: Session) -> Updates:
        """Whether there is something to approve, and something to edit."""
        page, work = self.page, session.work
        some = work.layer is not None and bool(work.layer.mask.any())
        hint = "First find something and approve its mask; then it can be changed here."
        if work.approved and work.layer is not None:
            hint = f"“{work.layer.query}” is approved. Say what is to become of it."
        if caveat := self.model.caveats.get("paint"):
            hint += f" ({caveat})"
        return {
            page.approve: gr.update(
                value="Approved ✓" if work.approved else "Approve mask",
                interactive=some and not work.approved,
                variant="secondary" if work.approved else "primary",
            ),
            page.remove: gr.update(interactive=some),
            page.edit: gr.update(interactive=work.approved),
            page.recolour: gr.update(interactive=work.approved),
            page.edit_hint: f'<p class="ts-note">{escape(hint)}</p>',
        }

    def turn(self, tab: str, panel: str) -> Updates:
        """Bring tabs into sight; "" leaves them as they are."""
        turned: Updates = {}
        if tab:
            turned[self.page.tabs] = gr.update(selected=tab)
        if panel:
            turned[self.page.panel] = gr.update(selected=panel)
        return turned


def _chip(layer: Layer) -> str:
    return layer.query if layer.mask.any() else f"{layer.query} (not found)"


def _greyed(work: Work) -> str:
    """A style sheet under which the queries that found nothing are grey."""
    rules = [
        f"#ts-found label:nth-of-type({i}) {{ --ts-dot: #9ca3af; --ts-text: #6b7280 }}"
        for i, layer in enumerate(work.layers, 1)
        if not layer.mask.any()
    ]
    return f"<style>{' '.join(rules)}</style>"
