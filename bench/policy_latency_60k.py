"""As `policy_latency`, in a large foundation: 60,000 policies, 5,000 of them among the apps of this cell."""

from __future__ import annotations

import asyncio

from bench import busy, policy_latency
from bench.figures import Figure


def run(quick: bool) -> list[Figure]:
    here, among, elsewhere, apps, samples = (4, 40, 80, 10, 3) if quick else (100, 5_000, 55_000, 1_000, 60)
    others = ((here + source, here + other, port) for source, other, port in busy.policies(apps, elsewhere))
    policies = [*busy.policies(here, among), *others]
    return asyncio.run(policy_latency.measure("policy_latency_60k", here, policies, samples, (600, 1_200)))
