"""The trainer's command as `accelerate launch` starts it in tests: `launched.py RECIPE [section.key=value ...]`.

KILL_AT_BATCH   the first process kills its launcher, the other processes and itself when it asks for this batch
OVER_AT_BATCH   the time of training.max_minutes is over, for the second process alone, when it asks for this batch
FSDP_ON_CPU     Accelerate, which leaves FSDP out on CPUs, is made to shard there with all else its own
"""

import math
import os
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace

import psutil
from accelerate import accelerator
from accelerate.state import AcceleratorState, DistributedType, PartialState
from torch.distributed.fsdp import FSDPModule

from seqzoo.data.text_packing import PackedBatches
from seqzoo.data.text_stream import PackedStream
from seqzoo.trainers import loop
from seqzoo.trainers.run import main


def at_batch(batch: int, rank: str, act: Callable[[], None]) -> None:
    def acting(function):
        def counting(self):
            nonlocal batch
            batch -= 1
            if batch == 0 and os.environ["RANK"] == rank:
                act()
            return function(self)

        return counting

    for batches in (PackedBatches, PackedStream):
        batches.__next__ = acting(batches.__next__)


def kill_all() -> None:
    launcher = psutil.Process(os.getppid())
    others = [child for child in launcher.children(recursive=True) if child.pid != os.getpid()]
    for process in (launcher, *others, psutil.Process()):
        process.kill()


def let_time_pass() -> None:
    loop.time = SimpleNamespace(monotonic=lambda: math.inf, perf_counter=time.perf_counter)


def let_fsdp_in() -> None:
    init = AcceleratorState.__init__

    def with_fsdp(self, *args, fsdp_plugin=None, **options):
        init(self, *args, fsdp_plugin=fsdp_plugin, **options)
        if fsdp_plugin is not None:
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin
            if self._mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self._mixed_precision)

    AcceleratorState.__init__ = with_fsdp
    prepare = accelerator.fsdp2_prepare_model

    def naming_what_is_sharded(accelerator, model):
        model = prepare(accelerator, model)
        names = [name for name, module in model.named_modules() if isinstance(module, FSDPModule)]
        # In one piece: the other process writes to the same place.
        sys.stderr.write(" ".join(["sharded:", *names]) + "\n")
        return model

    accelerator.fsdp2_prepare_model = naming_what_is_sharded


if __name__ == "__main__":
    if "KILL_AT_BATCH" in os.environ:
        at_batch(int(os.environ["KILL_AT_BATCH"]), "0", kill_all)
    if "OVER_AT_BATCH" in os.environ:
        at_batch(int(os.environ["OVER_AT_BATCH"]), "1", let_time_pass)
    if "FSDP_ON_CPU" in os.environ:
        let_fsdp_in()
    sys.exit(main(sys.argv[1:]))
