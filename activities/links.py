"""What the checks of the ways between workers found, written to the rows (control queue)."""

import asyncio

from temporalio import activity

from activities.ports import KnownLinks
from activities.types import KeepLinksInput


class LinkActivities:
    """Holds the rows."""

    def __init__(self, links: KnownLinks) -> None:
        self._links = links

    @activity.defn
    async def keep_links(self, input: KeepLinksInput) -> None:
        """Replaces what was known of the same pairs."""
        await asyncio.to_thread(self._links.keep, input.links)
