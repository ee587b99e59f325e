"""Models that are read over the network, wherever they are: one door for the control plane, the API and the CLI."""

from pathlib import Path

from stoker.domain.gguf import ModelProfile, ProjectorProfile
from stoker.domain.models import ModelFiles, ModelSource, SourceKind
from stoker.header_cache import HeaderCache
from stoker.hub import HuggingFaceHub
from stoker.url_models import UrlModels


class RemoteModels:
    """Satisfies `activities.ports.ModelHub`: `hf:` sources by `hub`, web addresses by `urls`."""

    def __init__(self, hub: HuggingFaceHub, urls: UrlModels) -> None:
        self._hub, self._urls = hub, urls

    async def inspect(self, source: ModelSource) -> tuple[ModelFiles, ModelProfile]:
        """Resolves a source to files and reads only their headers. Raises ModelSourceError."""
        return await self._of(source).inspect(source)

    async def inspect_projector(self, source: ModelSource) -> ProjectorProfile:
        """The multimodal projector that `source` names, by its header. Raises ModelSourceError."""
        return await self._of(source).inspect_projector(source)

    def _of(self, source: ModelSource) -> UrlModels | HuggingFaceHub:
        return self._urls if source.kind is SourceKind.URL else self._hub


def remote_models(
    folder: Path | None, *, endpoint: str | None = None, allow_private_urls: bool = False
) -> RemoteModels:
    """Hub and web on one cache of headers in `folder` (None: in memory only).

    `endpoint` is the hub's, by default what the environment says. `allow_private_urls`: see `PublicWeb`.
    """
    headers = HeaderCache(folder)
    return RemoteModels(
        HuggingFaceHub(endpoint=endpoint, headers=headers), UrlModels(allow_private=allow_private_urls, headers=headers)
    )
