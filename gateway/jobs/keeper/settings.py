"""Settings of what keeps jobs going in a gateway, from flags or `PENSTOCK_*` variables."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from penstock.gateway.webhooks.settings import WebhookSettings, check_delays
from penstock.gateway.webhooks.signing import key_of
from penstock.shared.contracts.settings import CommonSettings

BUSY_RETRY_S = 15.0
"""When an event comes again whose host has more than it takes: they must not all come each second,
nor take the room of other hosts' events."""


class JobKeeperSettings(CommonSettings):
    """Part of what `penstock gateway` takes."""

    # The messages of errors would hold secrets.
    model_config = SettingsConfigDict(hide_input_in_errors=True)

    jobs_look_s: float = Field(
        1.0, gt=0, le=60, description="How often it is looked at what is to be done for jobs."
    )
    jobs_collect_s: float = Field(
        5.0, gt=0, description="How often jobs that have had their time are erased."
    )
    jobs_totals_s: float = Field(
        5.0, gt=0, description="How often the jobs' counters are read for the metrics."
    )
    jobs_reclaim_gap_s: float = Field(
        5.0,
        gt=0,
        description="If no gateway reclaimed leases for so long, the store was away, or all of us.",
    )
    jobs_reclaim_grace_s: float = Field(
        15.0,
        ge=0,
        description="Then no lease ends for so long, so that replicas can prolong theirs.",
    )
    jobs_move_after_s: float = Field(
        5.0,
        ge=0,
        description="How long a version must be gone before its jobs move to the successor; longer "
        "than news of routes may take.",
    )
    jobs_orphan_look_s: float = Field(
        3600.0, gt=0, description="How often blobs are looked for that belong to no job."
    )
    jobs_orphan_age_s: float = Field(
        6 * 3600.0, ge=60, description="How old those must be to be deleted."
    )
    webhook_secrets: SecretStr = Field(
        SecretStr(""),
        description="By which webhooks are signed: whsec_<base64 of 24 to 64 bytes>, or several "
        "with spaces between them while one is replaced; empty: no webhooks. A flag shows in the "
        "list of processes, the variable does not.",
    )
    webhook_allow_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        (),
        description="Networks that webhooks may go to although they are not public, such as "
        "10.0.0.0/8; metadata services of clouds only as a network of their address alone.",
    )
    webhook_retry_delays_s: tuple[float, ...] = Field(
        WebhookSettings.model_fields["retry_delays_s"].default,
        max_length=32,
        description="Delays before further attempts; then a webhook is given up.",
    )
    webhook_timeout_s: float = Field(
        15.0, gt=0, le=120, description="Longest that one attempt may take."
    )
    webhook_concurrency: int = Field(64, gt=0, description="Most webhooks called at a time.")
    webhook_concurrency_per_host: int = Field(8, gt=0, description="Likewise, of one host.")
    webhook_ca_file: Path | None = Field(
        None, description="Certificates by which receivers are trusted, instead of the system's."
    )

    @field_validator("webhook_secrets")
    @classmethod
    def _are_secrets(cls, secrets: SecretStr) -> SecretStr:
        for secret in _parts(secrets):
            key_of(secret)
        return secrets

    @field_validator("webhook_retry_delays_s")
    @classmethod
    def _are_delays(cls, delays_s: tuple[float, ...]) -> tuple[float, ...]:
        return check_delays(delays_s)

    @model_validator(mode="after")
    def _reclaims_in_time(self) -> JobKeeperSettings:
        if self.jobs_look_s * 2 > self.jobs_reclaim_gap_s:
            raise ValueError("--jobs-reclaim-gap-s must be at least twice --jobs-look-s")
        return self


def webhook_settings(settings: JobKeeperSettings) -> WebhookSettings | None:
    """Settings of the sender; None where there are no webhooks."""
    secrets = _parts(settings.webhook_secrets)
    if not secrets:
        return None
    return WebhookSettings(
        secrets=tuple(map(SecretStr, secrets)),
        allow_networks=settings.webhook_allow_networks,
        retry_delays_s=settings.webhook_retry_delays_s,
        timeout_s=settings.webhook_timeout_s,
        concurrency=settings.webhook_concurrency,
        concurrency_per_host=settings.webhook_concurrency_per_host,
        open_per_host_max=8 * settings.webhook_concurrency_per_host,
        busy_retry_s=BUSY_RETRY_S,
    )


def _parts(secrets: SecretStr) -> list[str]:
    return secrets.get_secret_value().split()
