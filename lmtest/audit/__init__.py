"""Auditing tables of results, published or own: `audit` a file, FINDINGS are what may be the matter with a row of it."""

from lmtest.audit.auditing import EPSILON, Audit, audit
from lmtest.audit.findings import FINDINGS

__all__ = ["EPSILON", "FINDINGS", "Audit", "audit"]
