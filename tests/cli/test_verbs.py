"""The verbs of the tasks, as they are read where nobody has imported the schema."""

import inspect

from acestep.cli.verbs import verbs, written_verbs
from acestep.request import TASKS


def test_what_is_read_is_what_the_classes_say() -> None:
    read = list(written_verbs())
    assert read == [(task.verb, inspect.getdoc(task)) for task in TASKS.values()]
    assert list(verbs().items()) == read
