"""The section `[web]` of `node.toml`."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import Field, model_validator

from dicomnode.settings.section import Network, Port, Section


class WebSettings(Section):
    """The web page. Without a `[web]` table there is none."""

    host: str = "127.0.0.1"
    port: Port = 8080
    https: bool = False
    """Browsers reach the page by HTTPS, through a reverse proxy."""
    proxies: tuple[Network, ...] = ()
    """Reverse proxies, as IP addresses or CIDR: what they say of the client's address is believed."""
    user_header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")] | None = None
    """Header in which a proxy of `proxies` names the person that it has let in."""
    session_s: float = Field(default=43200.0, gt=0.0)
    idle_s: float = Field(default=1800.0, gt=0.0)

    @model_validator(mode="after")
    def _safe(self) -> WebSettings:
        if not (self.https or _is_loopback(self.host)):
            raise ValueError(
                f"passwords would cross the network in the clear at {self.host}; listen on 127.0.0.1, or "
                "put TLS in front and set https = true (docs/web.md)"
            )
        if self.user_header and not self.proxies:
            raise ValueError("user_header is believed from proxies alone; name them in proxies")
        return self


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
