"""How long a call takes, told so that what else the machine does matters little."""

import time


def shortest(function, *args, runs=3, limit=None, **kwargs):
    """Seconds of the quickest of some calls, and what the last returned.

    They are those of the calling thread: OpenCV and NumPy hand out little here, while threads that
    other tests left would count in the time of the process. No further call is made once one has
    taken less than `limit`.
    """
    times = []
    for _ in range(runs):
        start = time.thread_time()
        result = function(*args, **kwargs)
        times.append(time.thread_time() - start)
        if limit is not None and times[-1] < limit:
            break
    return min(times), result
