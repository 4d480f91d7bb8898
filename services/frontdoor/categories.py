"""What a request is about, for the output lengths that placement expects: as its client says, or as its form shows."""

from __future__ import annotations

from collections.abc import Mapping

from services.frontdoor.response_cache import CATEGORY_HEADER
from services.semcache.config import SemcacheConfig
from services.semcache.gate import Asked


class Categories:
    """Names requests' categories; there are no others than the configured ones.

    Args:
        config: of the response cache; None: the built-in categories.
    """

    def __init__(self, config: SemcacheConfig | None = None) -> None:
        self._config = config or SemcacheConfig()

    def of(self, metadata: Mapping[str, str], asked: Asked | None) -> str:
        """The category of a request; "" where nobody says.

        Args:
            asked: the request as the cache sees it, if there is one: it has looked at the form already.
        """
        if asked is not None:
            return asked.policy.category
        hint = metadata.get(CATEGORY_HEADER, "").strip().lower()
        return hint if self._config.hints and hint in self._config.categories else ""
