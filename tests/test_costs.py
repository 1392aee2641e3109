"""What tests may cost: a test of the rules of ``tests/conftest.py``."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

CONFTEST = Path(__file__).with_name("conftest.py")
MARKS = "[pytest]\nmarkers = slow(reason): x\n  fast_cases(n): x\n  gpu: x\n"


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project of the same rules."""
    pytester.makeconftest(CONFTEST.read_text())
    pytester.makeini(MARKS)
    return pytester


def test_of_many_cases_the_first_are_fast(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.mark.fast_cases(2)
        @pytest.mark.parametrize("number", range(5))
        def test_many(number):
            assert number < 2

        @pytest.mark.parametrize("number", range(3))
        def test_few(number):
            pass
        """
    )
    project.runpytest("-m", "not slow").assert_outcomes(passed=5, deselected=3)
    project.runpytest("-m", "slow").assert_outcomes(failed=3, deselected=5)


@pytest.mark.slow(reason="starts Python and imports PyTorch")
def test_what_takes_longer_than_it_may_fails(project: pytest.Pytester) -> None:
    """Of a processor, its fixtures and processes included; waiting costs nothing."""
    project.makepyfile(
        """
        import subprocess, sys, time

        import pytest

        WORK = "import time\\nwhile time.process_time() < 0.4: pass"

        def work():
            subprocess.run([sys.executable, "-c", WORK], check=True)

        @pytest.fixture
        def dear():
            work()

        def test_quick():
            time.sleep(0.5)

        def test_process():
            work()

        def test_fixture(dear):
            pass
        """
    )
    project.runpytest().assert_outcomes(passed=3)
    found = project.runpytest("--at-most", "0.35")
    found.assert_outcomes(passed=1, failed=2)
    found.stdout.fnmatch_lines(["*more than 0.35: make it quicker, or mark it slow*"])
