"""The one place where sentences, and errors above all, become something the page shows."""

import html
import inspect
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import gradio as gr

from acestep.errors import AceStepError, Cancelled, InvalidRequest
from acestep.request import TASKS

SECONDS_SHOWN = 30


def bounded(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The event handler, with our errors shown as their sentences.

    Anything else that escapes is a bug: Gradio logs its traceback and shows the message.
    """
    if inspect.isgeneratorfunction(handler):

        @wraps(handler)
        def steps(*args: Any) -> Iterator[Any]:
            try:
                yield from handler(*args)
            except AceStepError as error:
                raise message_box(error) from error

        return steps

    @wraps(handler)
    def call(*args: Any) -> Any:
        try:
            return handler(*args)
        except AceStepError as error:
            raise message_box(error) from error

    return call


def message_box(error: AceStepError) -> gr.Error:
    """The message box for an error, titled with the field.

    Gradio renders the message as HTML and sentences quote what the user typed, so it is escaped.
    """
    title = "Error"
    if isinstance(error, InvalidRequest):
        fields = (schema.model_fields.get(error.field) for schema in TASKS.values())
        titles = [field.title for field in fields if field is not None and field.title]
        title = next(iter(titles), error.field or "Request")
    elif isinstance(error, Cancelled):
        title = "Cancelled"
    return gr.Error(
        html.escape(str(error), quote=False),
        duration=SECONDS_SHOWN,
        title=html.escape(title),
        print_exception=False,
    )


def line(words: str) -> str:
    """A sentence below a control, as HTML."""
    return f'<p role="status">{html.escape(words)}</p>'


def warned(error: AceStepError | str) -> str:
    """What is wrong with the control above, as HTML."""
    return f'<p role="alert" class="warning">{html.escape(str(error))}</p>'
