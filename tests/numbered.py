"""Batches that are numbers, in a module that other processes import in no time."""

import os
import random
import threading
import time

import numpy as np


class Generator:
    """Batches that say which they are, ready after a random delay."""

    def __init__(self, length=5, fails_at=None, dies_at=None):
        self.length = length
        self.fails_at = fails_at
        self.dies_at = dies_at
        self.epoch = 0
        self.made = []
        self.threads = set()

    def __len__(self):
        return self.length

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __getitem__(self, index):
        epoch = self.epoch
        self.made.append(index)
        self.threads.add(threading.current_thread())
        time.sleep(random.uniform(0, 0.004))
        if (epoch, index) == self.fails_at:
            raise ValueError(f"image {index} of epoch {epoch}")
        if (epoch, index) == self.dies_at:
            os._exit(1)
        return [np.array([epoch]), np.array([index])], []
