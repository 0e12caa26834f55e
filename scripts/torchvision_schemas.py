"""Let torchvision be imported beside a torch that it was not built for. `make install` puts this into .venv.

vLLM imports torchvision wherever it starts, in processes of its own too. The torchvision of a plain package
index is the CUDA build; beside the CPU build of torch its library of operators does not load, and then its
own `import torchvision` fails, because it describes `nms` to torch although nobody has defined it:
`operator torchvision::nms does not exist`. Defining the operators without giving them a body is enough: what
never calls them works, and what calls them gets torch's error.

A `.pth` file beside this one runs `install` at every start of the interpreter, so nothing heavy happens here.
Where torchvision's library does load, nothing is changed. Standard library only.
"""

import sys

_EXTENSION = "torchvision.extension"  # loads the operators; `import torchvision` runs it first
_SCHEMAS = {
    "torchvision::nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


class _Finder:
    """Finds one module as Python itself would, and defines the schemas once it has run."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != _EXTENSION:
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module):
                run(module)
                if not module._has_ops():
                    _define()

            spec.loader.exec_module = exec_module
        return spec


def _define() -> None:
    import torch

    for name, schema in _SCHEMAS.items():
        torch.library.define(name, schema)


def install() -> None:
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
