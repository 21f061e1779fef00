"""What the exchange says of a key, asked through the key's own client, as findings."""

from __future__ import annotations

import base64
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from persistent_nonce.commands.access import open_writer
from persistent_nonce.errors import ConfigurationError, NonceError
from persistent_nonce.findings import Finding
from persistent_nonce.state import fingerprint

if TYPE_CHECKING:
    from persistent_nonce.adapters.krakenex import API

__all__ = ["ask"]


def ask(path: Path | None, key_file: Path, uri: str | None) -> list[Finding]:
    """Make one call for the key in a file, through its gate, and return what was found.

    Args:
        path: the database, None for the default one.
        key_file: key and secret on two lines, as krakenex reads them.
        uri: where the exchange answers, None for krakenex's own.

    Raises:
        ConfigurationError: krakenex is missing, or the file is none with a key.
        StoreError: the database cannot be used.
    """
    try:
        from persistent_nonce.adapters.krakenex import API  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigurationError(
            "the exchange is asked through krakenex, which is not installed",
            "pip install 'persistent_nonce[krakenex]'",
        ) from error
    with closing(open_writer(path)) as store:
        client = API(store=store)
        try:
            client.load_key(key_file)  # type: ignore[no-untyped-call]  # krakenex has no annotations
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"the key file cannot be read: {type(error).__name__}",
                "give a file with the API key and the secret on two lines",
            ) from error
        if not client.key or not client.secret:
            raise ConfigurationError(
                "the key file has no key and secret",
                "give a file with the API key and the secret on two lines",
            )
        try:
            base64.b64decode(client.secret)  # as krakenex does
        except ValueError as error:
            raise ConfigurationError(
                "the secret in the key file is no base64",
                "copy it once more, all of it",
            ) from error
        if uri is not None:
            client.uri = uri
        about = f"exchange, key {fingerprint(client.key)}"
        with closing(client):
            return [_named(about, finding) for finding in _verify(client)]


def _verify(client: API) -> list[Finding]:
    try:
        return client.verify()
    except NonceError as error:
        return [Finding("", wrong=True, said=str(error.args[0]), do=error.hint)]
    except Exception as error:  # noqa: BLE001 - whatever the client raises
        # Its words may hold the request, and with it the key (I11).
        said = f"no reply to GetApiKeyInfo: {type(error).__name__}"
        return [Finding("", wrong=True, said=said, do="look at the network")]


def _named(about: str, finding: Finding) -> Finding:
    name = f"{about}, {finding.about}" if finding.about else about
    return finding._replace(about=name)
