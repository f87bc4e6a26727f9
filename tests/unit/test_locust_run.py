"""Locust's summary, as Locust 2.47 printed it."""

from __future__ import annotations

from loadtest.locust_run import LocustResult, parse_summary

LINE = "--------|------------|-------|-------------|-------|-------|-------|-------|--------|-----------"
TABLE = f"""Type     Name                 # reqs      # fails |    Avg     Min     Max    Med |   req/s  failures/s
{LINE}
POST     /predictions/digits     923     0(0.00%) |     12       3      40     11 |  506.12        0.00
{LINE}
         Aggregated              923     0(0.00%) |     12       3      40     11 |  506.12        0.00"""
SUMMARY = f"""[2026-11-21 13:05:17,398] vm/INFO/locust.main: --run-time limit reached, shutting down
{TABLE}

Response time percentiles (approximated)
Type     Name             50%    66%    75%    80%    90%    95%    98%    99%  99.9% 99.99%   100% # reqs
--------|------------|--------|------|------|------|------|------|------|------|------|------|------|------
POST     /predictions/digits  11     12     13     14     15     16     17     19     30     40     40    923
--------|------------|--------|------|------|------|------|------|------|------|------|------|------|------
         Aggregated           11     12     13     14     15     16     17     19     30     40     40    923
"""


def test_the_summary_is_read() -> None:
    assert parse_summary(SUMMARY) == LocustResult(TABLE, 923, 506.12, 11, 16, 19)


def test_a_run_without_answers_has_none() -> None:
    assert parse_summary("vm/INFO/locust.main: Shutting down (exit code 1)") is None
    assert parse_summary(SUMMARY.replace("Aggregated", "Nothing")) is None
