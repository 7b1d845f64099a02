"""A CUDA device for machines that have none: its tensors say that they are there, and hold their numbers on the host.

It refuses what a real one refuses: to compute with tensors of two devices, to give a tensor to NumPy, an operation that
has no deterministic implementation, and, within a capture or `torch.cuda.set_sync_debug_mode`, whatever makes the host
wait. A captured graph is the list of its operations; a replay does them again, into the same memory.

It says nothing of speed, memory, streams and the bits of a real device.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

GPU = torch.device("cuda", 0)
_aten = torch.ops.aten

_TAKES_INDICES_OF_THE_HOST = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
_TAKES_NUMBERS_OF_THE_HOST = {
    "add", "sub", "rsub", "mul", "div", "pow", "remainder", "fmod", "floor_divide", "maximum", "minimum", "where",
    "eq", "ne", "lt", "le", "gt", "ge", "bitwise_and", "bitwise_or", "bitwise_xor", "logical_and", "logical_or",
    "masked_fill", "fill", "_fused_adamw",
}  # fmt: skip
"""Operations whose kernels take a tensor [] of the host; most others, such as `hypot` and `atan2`, do not."""
_COPIES = {"copy_", "_to_copy", "_foreach_copy_", "set_data"}
_WAITS = {
    "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal",
    "repeat_interleave", "bincount", "is_nonzero", "nonzero_static",
}  # fmt: skip
_NOT_DETERMINISTIC = {
    "adaptive_avg_pool3d_backward", "_adaptive_avg_pool2d_backward", "adaptive_max_pool2d_backward",
    "fractional_max_pool2d_backward", "max_unpool2d", "upsample_linear1d_backward", "upsample_bilinear2d_backward",
    "_upsample_bilinear2d_aa_backward", "upsample_bicubic2d_backward", "reflection_pad1d_backward",
    "reflection_pad2d_backward", "nll_loss2d_forward", "_ctc_loss_backward", "put_", "histc", "median",
    "grid_sampler_2d_backward", "max_pool3d_with_indices_backward", "avg_pool3d_backward",
}  # fmt: skip
"""`torch.use_deterministic_algorithms` lists them."""


class OnGPU(Tensor):
    """A tensor of the pretended device. there: its numbers, on the host."""

    there: Tensor

    @staticmethod
    def __new__(cls, there: Tensor) -> "OnGPU":
        made: OnGPU = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            there.size(),
            strides=there.stride(),
            storage_offset=there.storage_offset(),
            dtype=there.dtype,
            device="lazy",  # of the kinds of device that PyTorch knows without a library, the one with autograd
        )
        made.there = there
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return STATE.do(function, args, kwargs or {})

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The pretended device."""
        return GPU

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        """Whether it is there: it is."""
        return True

    def tolist(self) -> Any:
        """The numbers; the host waits."""
        STATE.waits("tolist")
        return self.there.tolist()

    def numpy(self, **options: Any) -> Any:
        """Refused, as by a GPU."""
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    def __array__(self, *args: Any) -> Any:
        return self.numpy()

    def __getitem__(self, index: Any) -> Tensor:
        return super().__getitem__(torch.tensor(index) if isinstance(index, list) else index)  # from the host

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 else object.__format__(self, spec)

    def __repr__(self, **options: Any) -> str:  # type: ignore[override]
        return f"OnGPU({self.there!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            copied: Any = OnGPU(self.there.detach().clone())
            copied.requires_grad_(self.requires_grad)
            if isinstance(self, torch.nn.Parameter):
                copied = torch.nn.Parameter(copied, self.requires_grad)
            memo[id(self)] = copied
        return memo[id(self)]

    def record_stream(self, stream: object) -> None:
        """Nothing to record."""


class _Everywhere(TorchDispatchMode):
    """Makes new tensors on the pretended device where they are asked for."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return STATE.do(function, args, kwargs or {})


class _Constructors(TorchFunctionMode):
    """There is no pinned memory without a device; and tensors of numbers are made on the host, and copied."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = {name: value for name, value in (kwargs or {}).items() if name != "pin_memory"}
        if function in (torch.tensor, torch.as_tensor) and (device := options.pop("device", None)) is not None:
            return function(*args, **options).to(device)
        return function(*args, **options)


class State(threading.local):
    """What the device does for a thread. recorded: the operations of a capture. before: memory that they have changed,
    with what it held."""

    sync_debug = 0  # of all threads; 2 refuses that the host waits

    def __init__(self) -> None:
        self.recorded: list[Callable[[], object]] | None = None
        self.before = dict[int, tuple[Any, Any]]()

    def waits(self, what: str) -> None:
        """Called for what makes the host wait."""
        if self.recorded is not None:
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing ({what})")
        if self.sync_debug:
            raise RuntimeError(f"called a synchronizing CUDA operation ({what})")

    def do(self, function: Any, args: Any, kwargs: Any) -> Any:
        """An operation, on the host if none of its tensors is or will be on the device."""
        if function is _aten._conj.default:  # a view that the plain operations below would take for the numbers
            function = _aten.conj_physical.default
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        on_gpu = [each for each in tensors if isinstance(each, OnGPU)]
        name = function._schema.name.partition("::")[2]
        asked = kwargs.get("device")
        if asked is not None:
            there = torch.device(asked).type in ("cuda", "lazy")
        else:
            there = isinstance(args[0], OnGPU) if name == "copy_" else bool(on_gpu)
        if on_gpu or there:
            self._check(function, name, args, kwargs, tensors, there)
        arguments, options = tree_map_only(OnGPU, lambda each: each.there, (args, kwargs))
        if asked is not None:
            options["device"] = torch.device("cpu")
            options.pop("pin_memory", None)
        if name == "_fused_sdp_choice" and on_gpu:
            return 0  # the kernels of a real device are not there: plain operations
        if self.recorded is not None and function._schema.is_mutable:
            for each in tree_leaves((arguments, options)):
                if isinstance(each, Tensor):
                    memory = each.untyped_storage()
                    self.before.setdefault(memory.data_ptr(), (memory, memory.clone()))
        with _disable_current_modes():
            moves = name == "_to_copy" and there != bool(on_gpu)
            result = function(*arguments, **options)
            if moves and any(result is each for each in tree_leaves(arguments)):
                result = result.clone()
        if not there:
            return result
        if self.recorded is not None:
            self._record(function, arguments, options, result)
        known = {id(each.there): each for each in on_gpu}
        return tree_map_only(Tensor, lambda each: known[id(each)] if id(each) in known else OnGPU(each), result)

    def _check(self, function: Any, name: str, args: Any, kwargs: Any, tensors: list[Tensor], there: bool) -> None:
        on_host = [each for each in tensors if not isinstance(each, OnGPU)]
        if name in _COPIES:
            ahead = args[2] if name == "copy_" and len(args) > 2 else kwargs.get("non_blocking", False)
            if (on_host or not there) and not (ahead and self.recorded is None):
                self.waits(name)
            return
        if on_host and (name.rstrip("_") in _TAKES_NUMBERS_OF_THE_HOST or name.startswith("_foreach")):
            on_host = [each for each in on_host if each.dim()]
            if name.endswith("_") and not isinstance(args[0], OnGPU | list | tuple):
                on_host = [args[0]]
        if on_host and name in _TAKES_INDICES_OF_THE_HOST and isinstance(args[0], OnGPU):
            self.waits(name)  # the indices are copied
            on_host = [each for each in args[2:3] if not isinstance(each, OnGPU) and each.dim()]
        if on_host and any(isinstance(each, OnGPU) for each in tensors):
            shapes = [(tuple(each.shape), each.device.type) for each in tensors]
            raise RuntimeError(f"Expected all tensors to be on the same device: {function} of {shapes}")
        if name in _WAITS and not (name == "repeat_interleave" and kwargs.get("output_size") is not None):
            self.waits(name)
        masks = name in _TAKES_INDICES_OF_THE_HOST and any(
            isinstance(each, Tensor) and each.dtype == torch.bool for each in args[1]
        )
        if masks and not (name.startswith("index_put") and len(args[1]) == 1 and args[2].dim() == 0):  # masked_fill
            self.waits(f"{name} with a mask")
        if torch.are_deterministic_algorithms_enabled():
            floating = name in ("cumsum", "cumsum_") and args[0].is_floating_point()
            if floating or name in _NOT_DETERMINISTIC or (name == "bincount" and len(args) > 1):
                raise RuntimeError(f"{name} does not have a deterministic implementation on CUDA")

    def _record(self, function: Any, arguments: Any, options: Any, result: Any) -> None:
        assert self.recorded is not None
        made = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
        before = {id(each) for each in tree_leaves((arguments, options)) if isinstance(each, Tensor)}
        if function.is_view and not function._schema.is_mutable:
            return  # a view shows what is written into its base

        def again() -> None:
            repeated = [each for each in tree_leaves(function(*arguments, **options)) if isinstance(each, Tensor)]
            for old, new in zip(made, repeated, strict=True):
                if id(old) not in before:
                    old.copy_(new)

        self.recorded.append(again)


STATE = State()


class _Stream:
    """A stream or an event: the device has always done everything."""

    def __init__(self, *args: Any, **options: Any) -> None: ...

    def wait_event(self, event: object) -> None: ...

    def wait_stream(self, stream: object) -> None: ...

    def record(self, *args: object) -> None: ...

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True


class _Graph:
    """The operations of a captured step."""

    def __init__(self) -> None:
        self.operations = list[Callable[[], object]]()

    def replay(self) -> None:
        """Do them again."""
        with _disable_current_modes():
            for each in self.operations:
                each()


@contextmanager
def _capture(graph: _Graph, **options: Any) -> Iterator[None]:
    STATE.recorded = graph.operations
    try:
        yield
    finally:
        STATE.recorded = None
    for memory, content in STATE.before.values():  # a capture runs nothing
        memory.copy_(content)
    STATE.before.clear()


def _pinned(tensor: Tensor, *args: object) -> Tensor:
    if isinstance(tensor, OnGPU):
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
    return tensor.clone()


def _swap(one: Tensor, other: Tensor, swap: Callable[[Tensor, Tensor], None] = torch.utils.swap_tensors) -> None:
    if one is not other:
        swap(one, other)


def _in_every_thread(run: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    def run_there(thread: threading.Thread) -> None:
        with _Constructors(), _Everywhere():
            run(thread)

    return run_there


@contextmanager
def pretended_gpu(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within this context PyTorch has a GPU."""
    cuda = torch.cuda
    for name, value in {
        "_lazy_init": lambda: None, "is_available": lambda: True, "device_count": lambda: 1,
        "is_initialized": lambda: False, "set_device": lambda device: None, "current_device": lambda: 0,
        "synchronize": lambda device=None: None, "current_stream": lambda device=None: _Stream(),
        "Stream": _Stream, "Event": _Stream, "CUDAGraph": _Graph, "graph": _capture,
        "stream": lambda stream: nullcontext(), "device": lambda device: nullcontext(),
        "is_bf16_supported": lambda *given: True,
        "is_current_stream_capturing": lambda: STATE.recorded is not None,
        "get_device_name": lambda device=None: "NVIDIA H100 80GB HBM3", "empty_cache": lambda: None,
        "mem_get_info": lambda device=None: (1 << 36, 1 << 36), "memory_reserved": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None, "max_memory_allocated": lambda device=None: 1 << 20,
        "get_rng_state": lambda device=None: torch.get_rng_state(), "set_rng_state": lambda *state: None,
        "set_sync_debug_mode": lambda mode: setattr(State, "sync_debug", 2 if mode in (2, "error") else 0),
    }.items():  # fmt: skip
        patch.setattr(cuda, name, value)
    patch.setattr(Tensor, "pin_memory", _pinned)
    patch.setattr(torch.__future__, "get_swap_module_params_on_conversion", lambda: True)  # tied weights stay tied
    patch.setattr(torch.utils, "swap_tensors", _swap)
    patch.setattr(Tensor, "is_pinned", lambda tensor, *args: False)
    patch.setattr(threading.Thread, "run", _in_every_thread(threading.Thread.run))
    with (
        torch.autograd.set_multithreading_enabled(False),
        _Constructors(),
        _Everywhere(),
    ):  # the engine has no thread for this device
        yield
