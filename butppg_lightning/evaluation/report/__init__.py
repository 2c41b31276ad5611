"""The report of `butppg evaluate`: one page with pictures, each with a sentence that says what it shows."""
