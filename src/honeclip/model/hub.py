"""Files of the Hugging Face hub: its cache first, the network only where it is allowed and the file is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from honeclip import places
from honeclip.errors import ModelError


def file(repo: str, name: str, *, network: bool = True) -> Path:
    """The path of one file of a repository, in the cache's snapshot folder.

    What the cache has is taken as it is, so that the same command gives the same model with and without a network.

    Raises:
        ModelError: the cache does not have it and it cannot be had, with what was tried.
    """
    found = first(repo, [name], network=network)
    if found is None:
        raise ModelError(unreachable(repo, name))
    return found


def first(repo: str, names: Sequence[str], *, revision: str | None = None, network: bool = True) -> Path | None:
    """The first of several files that a repository has: in the cache, then on the network; None where there is none.

    Args:
        repo: ORG/REPO.
        names: files, the best first.
        revision: a commit, so that all files of a model are of one; None is `main` as the cache knows it.
        network: the hub may be asked for what the cache lacks.

    Raises:
        ModelError: the repository's name cannot be one, or the hub refuses access.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError

    for local_only in (True, False) if network and not constants.HF_HUB_OFFLINE else (True,):
        for name in names:
            try:
                path = hf_hub_download(
                    repo, name, revision=revision, cache_dir=places.models(), local_files_only=local_only
                )
                return Path(path)
            except HFValidationError:
                raise ModelError(f"hf-hub:{repo}: a repository is named ORG/REPO") from None
            except GatedRepoError:
                raise ModelError(
                    f"hf-hub:{repo} is gated: accept its terms on its page and log in with `hf auth login`"
                ) from None
            except OSError:  # missing in the cache, missing on the hub, or no way to the hub
                continue
    return None


def unreachable(repo: str, missing: str) -> str:
    """The sentence for a file that can be had nowhere: what was tried, what is there, the way out."""
    folder = places.models() / f"models--{repo.replace('/', '--')}"
    if any(folder.glob("snapshots/*/*")):
        tried = f"the hub's cache has the repository, but not {missing}"
    else:
        tried = f"{missing} is not in the hub's cache"
    return (
        f"hf-hub:{repo}: {tried} ({folder}), and https://huggingface.co/{repo} cannot be reached or does not have it; "
        "`starter` needs no network"
    )
