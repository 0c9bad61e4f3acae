"""Processes that share the work, on this machine or on many, by Dask."""

import importlib
import itertools

from mrcnn.errors import InputError

RETRIES = 3
"""How often a task that failed is tried again. One whose worker was lost is given to another."""

AHEAD = 2
"""Tasks that wait for each thread, so that none is idle while results are written."""

ENVIRONMENT = {
    name: "1"
    for name in (
        "TF_NUM_INTRAOP_THREADS",
        "TF_NUM_INTEROP_THREADS",
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENCV_FOR_THREADS_NUM",
        "ZARR_THREADING__MAX_WORKERS",
    )
}
"""One thread a process: they share the cores already."""

TIMEOUT = 15
"""Seconds until a scheduler that does not answer is given up."""


class Cluster:
    """A Dask cluster, started or found when it is first needed; a context manager.

    Parameters
    ----------
    workers : int, optional
        So many processes of one thread each on this machine.
    scheduler : str, optional
        Address of the scheduler of a running cluster, in place of them. Its workers need this
        package, and see slides and weights under the same paths.
    prepare : callable, optional
        What each process on this machine calls first.
    """

    def __init__(self, workers=None, scheduler=None, prepare=None):
        self._workers, self._scheduler, self._prepare = workers, scheduler, prepare
        self._client = self._cluster = None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for part in (self._client, self._cluster):
            if part is not None:
                part.close()
        self._client = self._cluster = None

    def map(self, function, arguments):
        """Call a function for many arguments.

        Parameters
        ----------
        function : callable
            Of one argument, as are those and the results to be pickled.
        arguments : iterable

        Yields
        ------
        argument, result
            As they come. Few of those that have not come are on their way.

        Raises
        ------
        InputError
            If the cluster cannot be reached, or is lost, or a task ends its workers.
        """
        distributed = _distributed()
        client = self._connect(distributed)
        arguments = iter(arguments)
        running, done = {}, distributed.as_completed()

        def fill():
            threads = sum(client.nthreads().values())  # none while a lost worker is replaced
            room = AHEAD * max(1, threads) - len(running)
            for argument in itertools.islice(arguments, max(0, room)):
                future = client.submit(function, argument, retries=RETRIES, pure=False)
                running[future] = argument
                done.add(future)

        try:
            fill()
            for future in done:
                result = future.result()
                yield running.pop(future), result
                fill()
        except distributed.KilledWorker as error:
            raise InputError(
                f"a block has ended {RETRIES + 1} workers, as when there is no memory left; what "
                f"is done is kept, so give fewer workers or more memory and repeat ({error})"
            ) from None
        except (distributed.CancelledError, distributed.comm.CommClosedError, OSError) as error:
            raise InputError(
                f"the cluster was lost ({type(error).__name__}); what is done is kept: repeat the "
                "command"
            ) from None
        finally:
            client.cancel(list(running))

    def _connect(self, distributed):
        if self._client is None and self._scheduler is not None:
            try:
                self._client = distributed.Client(self._scheduler, timeout=TIMEOUT)
            except (OSError, ValueError) as error:
                raise InputError(
                    f"--scheduler {self._scheduler}: cannot be reached ({error}); give the address "
                    "that dask scheduler prints"
                ) from None
        elif self._client is None:
            self._cluster = distributed.LocalCluster(
                n_workers=self._workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=0,
                dashboard_address=":0",
                silence_logs="CRITICAL",
                env=ENVIRONMENT,
            )
            self._client = distributed.Client(self._cluster)
            if self._prepare is not None:
                self._client.register_worker_callbacks(self._prepare)
        return self._client


def _distributed():
    try:
        return importlib.import_module("distributed")
    except ImportError:
        raise InputError(
            "--workers and --scheduler need the package distributed; "
            "pip install 'mrcnn-nuclei[cluster]'"
        ) from None
