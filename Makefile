# Each target is a step of .ci/run, which is what runs in CI.
.PHONY: check lint types floors tests faults coverage mutation slow format hooks

check:  ## everything that must pass before a change lands
	./.ci/run

lint types floors tests faults coverage mutation:  ## one step of it
	./.ci/run $@

slow:  ## the tests that take longer
	uv run pytest -m slow

format:  ## what can be mended by a machine
	uv run ruff check --fix .
	uv run ruff format .

hooks:  ## lint, types and floors before every commit
	uv run pre-commit install
