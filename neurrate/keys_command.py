"""``neurrate keys``: pairs of keys, and the list of those that may connect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from neurrate.arguments import JsonOption
from neurrate.tables import print_table, write_json

if TYPE_CHECKING:
    from peer_guard.key_folder import KeyFolder

FolderOption = Annotated[Path | None, Parameter(name="--folder")]


def new(name: str, *, folder: FolderOption = None) -> None:
    """Make a pair of keys: NAME.key, to be given to others, and NAME.key_secret, which stays here.

    Examples
    --------
        neurrate keys new rig
        neurrate keys new rig --folder /etc/neurrate/keys

    Parameters
    ----------
    name
        Of the machine or program that will have it.
    folder
        Where keys are; $XDG_CONFIG_HOME/neurrate/keys, by default ~/.config/neurrate/keys.
    """
    keys = _folder(folder)
    keys.new(name)
    print(f"Made {keys.path / name}.key, to be copied to whom you connect to or who connects here,")
    print(f"and {keys.path / name}.key_secret, which stays on this machine.")


def show(*, folder: FolderOption = None, json: JsonOption = None) -> None:
    """Show one's own pairs, public keys of others, and who may connect.

    Examples
    --------
        neurrate keys list
        neurrate keys list --json keys.json

    Parameters
    ----------
    folder
        Where keys are.
    json
        Write the public keys to this file, as JSON.
    """
    from contracts.keys import to_z85

    rows = [
        {
            "name": key.name,
            "kind": key.kind,
            "public key": to_z85(key.public) if key.public else "",
            "problem": key.problem,
        }
        for key in _folder(folder).keys()
    ]
    write_json(json, rows)
    print_table("Keys", rows or [{"name": "none", "kind": "", "public key": "", "problem": ""}])


def allow(
    key_file: Path, *, name: str = "", replace: bool = False, folder: FolderOption = None
) -> None:
    """Let whoever has the secret half of a public key connect to what listens with keys of here.

    What runs takes it up within a second.

    Examples
    --------
        neurrate keys allow laptop.key
        neurrate keys allow laptop.key --replace
        neurrate keys allow /media/usb/laptop.key --name anna

    Parameters
    ----------
    key_file
        NAME.key of the other side.
    name
        Name on the list; that of the file if omitted.
    replace
        Take off the key that has this name now.
    folder
        Where keys are.
    """
    keys = _folder(folder)
    allowed = keys.allow(key_file, name=name, replace=replace)
    print(f"{allowed} may connect to what listens with a key of {keys.path}.")


def revoke(name: str, *, folder: FolderOption = None) -> None:
    """Let a key connect no more; who is connected with it is disconnected within a second.

    Examples
    --------
        neurrate keys revoke laptop

    Parameters
    ----------
    name
        As 'neurrate keys list' has it.
    folder
        Where keys are.
    """
    keys = _folder(folder)
    keys.revoke(name)
    print(f"{name} may no longer connect to what listens with a key of {keys.path}.")


def _folder(folder: Path | None) -> KeyFolder:
    from contracts.keys import keys_folder
    from peer_guard.key_folder import KeyFolder

    return KeyFolder(folder or keys_folder())
