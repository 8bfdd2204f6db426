"""What can be set about webhooks."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from penstock.gateway.webhooks.retries import RetrySchedule
from penstock.gateway.webhooks.signing import key_of

MINUTE, HOUR = 60.0, 3600.0


class WebhookSettings(BaseModel):
    """Secrets, bounds and delays of webhooks."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    secrets: tuple[SecretStr, ...] = Field(
        min_length=1,
        max_length=8,
        description="whsec_<base64 of 24 to 64 bytes>; several while one is replaced: each event "
        "carries a signature by each.",
    )
    allow_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        (),
        description="Networks that may be sent to although they are not public, such as "
        "10.0.0.0/8; metadata services of clouds only as a network of their address alone.",
    )
    retry_delays_s: tuple[float, ...] = Field(
        (5.0, 5 * MINUTE, 30 * MINUTE, *(hours * HOUR for hours in (2, 5, 10, 14, 20, 24))),
        max_length=32,
        description="Delays before further attempts, as Standard Webhooks suggests; three days.",
    )
    retry_jitter: float = Field(
        0.2, ge=0, le=1, description="Share of a delay that chance may add to it."
    )
    retry_after_s_max: float = Field(
        24 * HOUR, ge=0, description="Longest delay that a receiver can ask for by Retry-After."
    )
    timeout_s: float = Field(
        15.0,
        gt=0,
        le=120,
        description="Longest that one attempt may take, from the name's look-up to the status.",
    )
    connect_timeout_s: float = Field(
        5.0, gt=0, le=120, description="Longest wait for one address to accept a connection."
    )
    answer_bytes_max: int = Field(
        64 * 1024,
        ge=0,
        description="How much of an answer's body is read, to use its connection again; nothing "
        "in it counts.",
    )
    answer_body_s: float = Field(1.0, gt=0, le=60, description="How long it is read.")
    concurrency: int = Field(64, gt=0, description="Most deliveries at a time.")
    concurrency_per_host: int = Field(8, gt=0, description="Most deliveries to a host at a time.")
    open_max: int = Field(
        1024, gt=0, description="Most deliveries that run or wait for their turn."
    )
    open_per_host_max: int = Field(256, gt=0, description="Likewise, to one host.")
    busy_retry_s: float = Field(
        5.0, gt=0, description="When a delivery comes again for which there was no room."
    )

    @field_validator("secrets")
    @classmethod
    def _are_secrets(cls, secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for secret in secrets:
            key_of(secret.get_secret_value())
        return secrets

    @field_validator("retry_delays_s")
    @classmethod
    def _are_delays(cls, delays_s: tuple[float, ...]) -> tuple[float, ...]:
        return check_delays(delays_s)

    @property
    def keys(self) -> list[bytes]:
        """By which events are signed."""
        return [key_of(secret.get_secret_value()) for secret in self.secrets]

    @property
    def schedule(self) -> RetrySchedule:
        """When failed events are tried again."""
        return RetrySchedule(self.retry_delays_s, self.retry_jitter, self.retry_after_s_max)


def check_delays(delays_s: tuple[float, ...]) -> tuple[float, ...]:
    """The delays.

    Raises:
        ValueError: if they are none.
    """
    if not all(0 < delay <= 30 * 24 * HOUR for delay in delays_s):
        raise ValueError("expected delays above 0, of at most 30 days")
    return delays_s
