"""`from acestep import …`: the names that programs may rely on."""

import inspect
from importlib import metadata

import pytest

import acestep
from acestep import errors


@pytest.mark.parametrize("name", acestep.__all__)
def test_every_public_name_is_there(name: str) -> None:
    thing = getattr(acestep, name)
    assert name == "__version__" or thing.__name__ == name
    assert name in dir(acestep)


def test_every_error_is_public() -> None:
    classes = {name for name, _ in inspect.getmembers(errors, inspect.isclass)}
    assert classes - {"ClassVar"} <= set(acestep.__all__)


def test_the_version_is_the_installed_one() -> None:
    assert acestep.__version__ == metadata.version("acestep")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Musik'"):
        acestep.Musik  # noqa: B018
