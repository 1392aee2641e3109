# Each target does all its set-up itself, in .venv; nothing else on the machine is touched, except
# that `make test`, as root on a Debian, installs the browser that one of the tests drives and, in a
# container, the SSH server that another starts for itself.

.PHONY: quickstart test test-fast test-nightly traces lint docs clean chromium sshd

# What is run by a test or by NNI must find this environment, as if it were activated.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

quickstart: .venv/installed
	@.venv/bin/sedona-nni run experiments/quickstart.yml

# One thread for each of PyTorch's operations: results that repeat, and no slower for small ones; and
# where a test has more, none that waits by spinning, on a core that another test could have.
# So many tests at a time as there are cores, and one that waits for a manager or a browser; on many
# cores not more than memory holds. Tests that share a dear set-up are a group, in one process.
WORKERS = $$(.venv/bin/python -c 'import os; print(min(4, 1 + (os.cpu_count() or 1)))')
PYTEST = OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive .venv/bin/python -m pytest -q -n $(WORKERS) --dist loadgroup \
	--durations=40 --durations-min=5

test: lint chromium sshd
	@$(PYTEST)

# What starts no manager and no browser, and is not marked slow: of every room the quick tests. One
# that takes more than 20 s of a processor, several times the slowest of today, is not one of them
# and fails, see tests/conftest.py.
test-fast: .venv/installed
	@$(PYTEST) -m "not nni and not browser and not slow" --at-most 20

# Long lists of architectures, torchvision's and timm's, cut everywhere; some 10 minutes.
test-nightly: .venv/installed
	@$(PYTEST) --nightly -m nightly

# What the code computes now, see tests/traces/record.py; a change of it shows in git's diff.
traces: .venv/installed
	@OMP_NUM_THREADS=1 .venv/bin/python tests/traces/record.py

lint: .venv/installed
	@.venv/bin/ruff check --quiet
	@.venv/bin/ruff format --check --quiet
	@.venv/bin/mypy --no-error-summary

# The site, in site/index.html; Material's advertisement of its successor is no news to a reader.
docs: .venv/installed
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

# The stamp says that what setup.py asks for is there.
.venv/installed: setup.py
	@for python in python3.11 python3 python3.12 python3.13 python3.10; do \
		if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' \
			2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "make: needs Python 3.10 or newer with its venv module" \
			"(Debian: apt-get install python3-venv)" >&2; \
		exit 1; \
	fi; \
	echo "installing into .venv, which takes some minutes the first time"; \
	$$found -m venv .venv
	@.venv/bin/python -m pip install --disable-pip-version-check -q -e '.[test,docs]'
	@touch $@

chromium:
	@command -v chromium >/dev/null || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		echo "installing chromium for the test of the web UI" && \
		apt-get update -q && \
		DEBIAN_FRONTEND=noninteractive apt-get install -q -y chromium; \
	} </dev/null >/dev/null 2>&1 || true

# Not where systemd runs, which would start it at every boot. Nothing starts it now either: that is
# what policy-rc.d says, where an image has none of its own.
sshd:
	@PATH="$$PATH:/usr/sbin" command -v sshd >/dev/null || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && [ ! -d /run/systemd/system ] && \
		if [ ! -e /usr/sbin/policy-rc.d ]; then \
			trap 'rm -f /usr/sbin/policy-rc.d' EXIT && \
			printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && \
			chmod +x /usr/sbin/policy-rc.d; \
		fi && \
		apt-get update -q && \
		DEBIAN_FRONTEND=noninteractive apt-get install -q -y openssh-server; \
	} </dev/null >/dev/null 2>&1 || true

clean:
	rm -rf .venv build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -r {} +
