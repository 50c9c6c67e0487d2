"""Makes docs/reference/ out of the code, so that it says what the code does: `make reference`."""
