"""The trainer's command as `accelerate launch` starts it in tests: `launched.py RECIPE [section.key=value ...]`.

KILL_AT_BATCH   the first process kills its launcher, the other processes and itself when it asks for this batch
FSDP_ON_CPU     Accelerate, which leaves FSDP out on CPUs, is made to shard there with all else its own
"""

import os
import sys

import psutil
from accelerate import accelerator
from accelerate.state import AcceleratorState, DistributedType, PartialState
from torch.distributed.fsdp import FSDPModule

from seqzoo.data.text_packing import PackedBatches
from seqzoo.data.text_stream import PackedStream
from seqzoo.trainers.run import main


def kill_at(batch: int) -> None:
    def killing(function):
        def counting(self):
            nonlocal batch
            batch -= 1
            if batch == 0 and os.environ["RANK"] == "0":
                launcher = psutil.Process(os.getppid())
                others = [child for child in launcher.children(recursive=True) if child.pid != os.getpid()]
                for process in (launcher, *others, psutil.Process()):
                    process.kill()
            return function(self)

        return counting

    for batches in (PackedBatches, PackedStream):
        batches.__next__ = killing(batches.__next__)


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
        kill_at(int(os.environ["KILL_AT_BATCH"]))
    if "FSDP_ON_CPU" in os.environ:
        let_fsdp_in()
    sys.exit(main(sys.argv[1:]))
