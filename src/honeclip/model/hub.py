"""Files of the Hugging Face hub: its cache first, the network only where it is allowed and the file is missing."""

from __future__ import annotations

import contextlib
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
        raise ModelError(unreachable(repo, name, network=network))
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
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HFValidationError

    cache, unknown = places.models(), []
    try:
        for name in names:
            found = try_to_load_from_cache(repo, name, cache_dir=cache, revision=revision)
            if isinstance(found, str):
                return Path(found)
            if found is None:  # else the cache remembers that the repository has no such file
                unknown.append(name)
        for name in unknown if network and not constants.HF_HUB_OFFLINE else ():
            # asked once, without retries: hf_hub_download alone tries for 23 s where there is no network
            with contextlib.suppress(EntryNotFoundError):
                get_hf_file_metadata(hf_hub_url(repo, name, revision=revision))
            with contextlib.suppress(EntryNotFoundError):
                return Path(hf_hub_download(repo, name, revision=revision, cache_dir=cache))
    except HFValidationError:
        raise ModelError(f"hf-hub:{repo}: a repository is named ORG/REPO") from None
    except GatedRepoError:
        raise ModelError(f"hf-hub:{repo} is gated: accept its terms on its page, then `hf auth login`") from None
    except Exception:  # no way to the hub (each HTTP library has its own errors for it), or no such repository
        return None
    return None


def collect(repo: str, names: Sequence[str], *, revision: str | None = None, network: bool = True) -> Path | None:
    """Looks each of several files up like `first`: the folder of those that there are, None where there is none."""
    found = [first(repo, [name], revision=revision, network=network) for name in names]
    return next((path.parent for path in found if path is not None), None)


def unreachable(repo: str, missing: str, *, network: bool = True) -> str:
    """The sentence for a file that can be had nowhere: what was tried, what is there, the way out."""
    folder = places.models() / f"models--{repo.replace('/', '--')}"
    known = any(folder.glob("snapshots/*/*"))
    tried = (
        f"the hub's cache has the repository, but not {missing}" if known else f"{missing} is not in the hub's cache"
    )
    page = f"https://huggingface.co/{repo} cannot be reached or does not have it" if network else "the hub is not asked"
    return f"hf-hub:{repo}: {tried} ({folder}), and {page}; `starter` needs no network"
