"""Putting a folder on the Hugging Face Hub."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from spikediff.errors import UserError


def check_repository_name(repository: str) -> None:
    """Refuse what cannot be a repository's name.

    Args:
        repository: USER/NAME.

    Raises:
        UserError: It is none.

    Example:
        >>> check_repository_name("me/sddpm-mnist")
        >>> check_repository_name("sddpm-mnist")
        Traceback (most recent call last):
        ...
        spikediff.errors.UserError: 'sddpm-mnist': is no repository; give USER/NAME
    """
    if repository.count("/") != 1:
        raise UserError(f"{repository!r}: is no repository; give USER/NAME")
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{repository!r}: is no repository ({reason})") from error


def upload_repository(folder: Path, repository: str, private: bool = False) -> str:
    """Make the repository where there is none yet, and put all files of a folder into it.

    Args:
        folder: The folder.
        repository: USER/NAME.
        private: Whether a repository that is made is private.

    Returns:
        Its address.

    Raises:
        UserError: The Hub refuses, or cannot be reached.
    """
    api = HfApi()
    try:
        made = api.create_repo(repository, private=private or None, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Upload a spikediff model"
        )
    except Exception as error:  # the client raises what its transport raises, of every kind
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{repository}: the upload failed ({reason}); log in with `hf auth login`, and try "
            f"again: what is there already is not sent twice"
        ) from error
    return str(made)
