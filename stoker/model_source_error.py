"""The one error of all that finds, reads or fetches a model. It leans on nothing, so every door can use it."""


class ModelSourceError(Exception):
    """A model source that cannot be used. `code`: model_not_found, file_not_found, not_gguf, truncated_gguf,
    invalid_gguf, unsupported_gguf, path_not_allowed, url_not_allowed, ambiguous_model, access_denied, disk_full,
    hub_unavailable, url_unavailable, checksum_mismatch, disk_error, download_failed.

    `retryable` says whether the same call may succeed later by itself.
    """

    def __init__(self, code: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.code, self.retryable = code, retryable
