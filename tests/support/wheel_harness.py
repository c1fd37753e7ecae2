"""A program that imports every module of the client where the heavy packages cannot be imported."""

IMPORT_ALL = """
import importlib, pkgutil, sys

HEAVY = {"torch", "vllm", "transformers", "sklearn", "accelerate", "gguf", "trait_service", "trait_extraction"}

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HEAVY:
            raise ImportError(f"{name} is not the client's")

sys.meta_path.insert(0, Blocked())
import trait_client
modules = [m.name for m in pkgutil.walk_packages(trait_client.__path__, "trait_client.") if not m.name.endswith("__main__")]
for name in modules:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        # The extra `dashboard`; reports and what they read need none.
        if error.name not in {"fastapi", "starlette"} or name.rpartition(".")[2] not in {"app", "host_check", "routes"}:
            raise
print(len(modules), *sorted(HEAVY & set(sys.modules)))
"""
