"""`trait-client status`: show what a service serves and allows."""

import typer

from trait_client.cli.console import CLI_RETRIES, Url, progress
from trait_client.http import TraitClient
from trait_client.http.settings import DEFAULT_URL
from trait_core.console import EXIT_FAILED, ApiKey, AsJson, print_fields, print_json
from trait_core.schema import ServiceInfo, VectorInfo


def status(url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show the model, limits and vectors of a service; exit code 1 if it is not ready.

    Example: `trait-client status --url http://127.0.0.1:8000`
    """
    with TraitClient(url, api_key, timeout=30, retries=CLI_RETRIES) as client, progress("asking the service"):
        info, ready, models, registered = client.info(), client.ready(), client.models(), client.vectors()
    if as_json:
        print_json(
            {
                "url": client.base_url,
                "ready": ready,
                "models": models,
                "vectors": [vector.name for vector in registered],
                "service": info.model_dump(mode="json"),
            }
        )
    else:
        page = _page(client.base_url, info, ready=ready, models=models, registered=registered)
        print_fields(page, {"service": "green"} if ready else None)
    if not ready:
        raise typer.Exit(EXIT_FAILED)


def _page(
    address: str, info: ServiceInfo, *, ready: bool, models: list[str], registered: list[VectorInfo]
) -> dict[str, str]:
    limits = info.limits
    rows = {
        "service": f"{address}   {'ready' if ready else 'NOT READY'}",
        "model": info.model,
        "also served as": ", ".join(name for name in models if name != info.model),
        "layers": f"{info.n_layers} (0..{info.n_layers - 1}), d_model {info.d_model}",
        "chat template": _template(info),
        "precision": f"{info.dtype}, {info.quantization or 'not quantized'}",
        "residual norm": _norms(info.residual_norms),
        "vectors": ", ".join(vector.name for vector in registered) or "none: see `trait-client vectors put --help`",
        "operations": ", ".join(info.operations),
        "hook points": ", ".join(info.hook_points),
        "gates": ", ".join(info.holds) or "none",
        "units": ", ".join(info.units),
        "scopes": ", ".join(info.scopes),
        "steering limits": (
            f"relative dose {limits.max_relative_dose:g}, {limits.max_terms} terms a request, "
            f"{limits.max_layers_per_term} layers a term, {limits.terms_per_layer} terms a layer"
        ),
        "capacity": f"{limits.max_num_seqs} requests in a batch, {limits.bank_rows} directions in the bank",
        "activations": f"{limits.max_activation_inputs} texts, {limits.max_positions} positions a request",
        "monitoring": f"{limits.max_monitored} directions (vectors times layers) a request",
        "versions": ", ".join(f"{name} {version}" for name, version in info.versions.items()),
    }
    return {label: value for label, value in rows.items() if value}


def _template(info: ServiceInfo) -> str:
    if not info.has_chat_template:
        return "none: a base model, which takes raw text (--raw)"
    return f"variables: {', '.join(info.chat_template_variables)}" if info.chat_template_variables else ""


def _norms(norms: list[float]) -> str:
    steps = sorted({0, len(norms) // 4, len(norms) // 2, 3 * len(norms) // 4, len(norms) - 1})
    return "   ".join(f"layer {layer}: {norms[layer]:.4g}" for layer in steps) if norms else "not known"
