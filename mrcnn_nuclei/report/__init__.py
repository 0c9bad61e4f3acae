"""One HTML page of what a run, or several, have reached: `contents` -> `page`."""
