"""The plan past this machine: its sizes are the engine's own, and its document says what the formulas say."""

import dataclasses
import sys
from pathlib import Path

import pytest
from deploy_harness import ROOT

torch = pytest.importorskip("torch")
sys.path.append(str(ROOT / "experiments" / "scaling_model"))

import model as formulas  # noqa: E402
import tables  # noqa: E402

SHAPE = dataclasses.replace(formulas.SMOLLM2, n_layers=3, d_model=8)


def bytes_of(*tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_the_bank_is_as_large_as_said():
    from trait_service.engine.buffers import VectorBank

    assert bytes_of(VectorBank(16, 8, torch.device("cpu")).rows) == formulas.bank_bytes(SHAPE, rows=16)


def test_the_request_table_is_as_large_as_said():
    from trait_service.engine.request_table import RequestTable
    from trait_service.engine.settings import EngineSettings

    table = RequestTable(3, 5, EngineSettings().terms_per_layer, torch.device("cpu"))
    assert bytes_of(table.tensor) == formulas.table_bytes(SHAPE, n_requests=5)


def test_the_buffers_of_monitoring_are_as_large_as_said():
    from trait_service.engine.monitor_table import MonitorTable

    table = MonitorTable(3, 5, 16, torch.device("cpu"))
    assert bytes_of(table.sets, table.values) == formulas.monitor_bytes(SHAPE, n_requests=5, n_tokens=16)


def test_the_sums_of_pools_are_as_large_as_said():
    from trait_service.engine.capture_rows import CaptureRows
    from trait_service.engine.settings import EngineSettings

    assert EngineSettings().capture_rows == formulas.CAPTURE_ROWS
    pools = CaptureRows(3, 10, 8, torch.device("cpu"), deferred=True)
    assert bytes_of(pools.store) == formulas.pool_bytes(SHAPE, n_pools=10)


def test_the_document_has_the_tables_that_the_formulas_give():
    text = (ROOT / "docs" / "scaling.md").read_text()
    assert tables.filled(text) == text, "run: python experiments/scaling_model/tables.py --write"


@pytest.mark.parametrize("variant", ["configurations_256", "all_layers", "capture", "monitor"])
def test_a_replica_that_steers_is_slower_than_one_that_does_not_and_none_gains_by_fewer_requests(variant):
    calibration, machine, load = formulas.read_calibration(), formulas.Machine(), formulas.Load()
    for model in formulas.MODELS:
        rates = {
            (name, at_once): formulas.requests_per_second(
                model,
                dataclasses.replace(load, at_once=at_once),
                machine,
                formulas.step(model, dataclasses.replace(load, at_once=at_once), machine, calibration, name),
            )
            for name in ("idle", variant)
            for at_once in (16, 256)
        }
        assert rates[variant, 256] < rates["idle", 256]
        assert rates[variant, 16] < rates[variant, 256]


def test_the_models_fit_their_machines_with_the_load():
    machine, load = formulas.Machine(), formulas.Load()
    for model in formulas.MODELS:
        kept = sum(
            (
                formulas.bank_bytes(model),
                formulas.table_bytes(model, load.at_once),
                formulas.monitor_bytes(model, load.at_once),
                formulas.pool_bytes(model),
                model.bytes_of_weights / model.gpus,
                load.at_once * load.mean_length * model.kv_bytes_per_token / model.gpus,
            )
        )
        assert kept < machine.memory_bytes * machine.memory_used, model.name


def test_the_calibration_is_a_measurement_that_is_in_the_repository():
    assert Path(formulas.MEASURED).exists()
    calibration = formulas.read_calibration()
    assert set(calibration.layers) == set(calibration.step) == set(calibration.requests) >= set(tables.VARIANTS)
