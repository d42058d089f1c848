"""The real Ray: clusters of this machine, with a node killed, the driver killed, and addresses that do not answer."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from art_lowrank.cli import main
from art_lowrank.evaluate import plan_of

pytest.importorskip("ray", reason="Ray is not installed")

LIMIT = 240  # seconds after which a process is taken to hang
SLOW = "time.sleep(0.01)\nreturn self.net(x)"


@pytest.fixture
def cluster():
    """A cluster of two nodes, one CPU each."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = found.add_node(num_cpus=1)
    yield found, second
    found.shutdown()


@pytest.fixture
def asked(write_model):
    """Sixty cells: a slow model, and one that fails."""
    models = write_model(SLOW), write_model(load="raise RuntimeError('no weights')")
    named = [word for model in models for word in ("--model", model)]
    attacks = ["--attack", "lowrank-pgd[rank=1,steps=5]", "--attack", "lora-pgd[rank=2,steps=5]"]
    return [*named, *attacks, "--images", "200", "--slice", "20", "--quiet"]


def written(folder):
    records = folder / "records.jsonl"
    return records.read_bytes().count(b"\n") if records.exists() else 0


def ended(process):
    """Exit code, what was said, and complaints."""
    said, complaints = process.communicate(timeout=LIMIT)
    return process.returncode, said, complaints


def wait_for(folder, records, process):
    started = time.monotonic()
    while written(folder) < records:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - started < LIMIT
        time.sleep(0.02)


def wait_for_worker(process):
    """Until Ray starts the first one, by what the system calls it."""
    started = time.monotonic()
    while not any("ray::Worker" in name for name in map(name_of, os.listdir("/proc"))):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - started < LIMIT
        time.sleep(0.02)


def name_of(process):
    try:
        return Path(f"/proc/{process}/cmdline").read_text(encoding="utf-8") if process.isdigit() else ""
    except (OSError, UnicodeDecodeError):
        return ""


def test_a_cluster_of_its_own_gives_the_same_records(process, tmp_path, stable, images, write_model):
    models = ["--model", write_model(), "--model", write_model(load="raise RuntimeError('no weights')")]
    asked = [*models, "--attack", "lowrank-pgd[rank=1,steps=3]", "--images", "40", "--slice", "10"]
    local = process(*asked, "--out", "local")
    cluster = process(*asked, "--out", "ray", "--engine", "ray")
    code, said, complaints = ended(cluster)
    assert (code, ended(local)[0]) == (3, 3), complaints
    assert stable(tmp_path / "ray") == stable(tmp_path / "local")
    assert images(tmp_path / "ray") == images(tmp_path / "local")
    assert "no weights" in said


@pytest.mark.slow
def test_a_node_is_killed_in_the_middle(process, cluster, asked, tmp_path, stable, images):
    nodes, second = cluster
    assert ended(process(*asked, "--out", "local"))[0] == 3
    running = process(*asked, "--out", "ray", "--engine", "ray", "--address", nodes.address)
    wait_for(tmp_path / "ray", 20, running)
    nodes.remove_node(second, allow_graceful=False)
    assert written(tmp_path / "ray") < 60
    code, _, complaints = ended(running)
    assert code == 3, complaints
    assert stable(tmp_path / "ray") == stable(tmp_path / "local")
    assert images(tmp_path / "ray") == images(tmp_path / "local")


@pytest.mark.slow
def test_a_machine_that_joins_later_gets_work(process, cluster, tmp_path, write_model):
    nodes, second = cluster
    nodes.remove_node(second)
    log = tmp_path / "loads"
    log.touch()
    load = f"with open({str(log)!r}, 'a') as file:\n    file.write(f'{{os.getpid()}}\\n')\nreturn Net()"
    asked = ["--model", write_model(SLOW, load=load), "--attack", "lora-pgd[rank=2,steps=20]", "--images", "400"]
    running = process(*asked, "--slice", "10", "--out", "ray", "--engine", "ray", "--address", nodes.address)
    wait_for(tmp_path / "ray", 5, running)
    assert len(log.read_text().split()) == 1
    nodes.add_node(num_cpus=1)
    code, _, complaints = ended(running)
    assert code == 0, complaints
    assert len(set(log.read_text().split())) == 2
    assert written(tmp_path / "ray") == 80


@pytest.mark.slow
def test_a_node_is_lost_while_its_workers_start(process, cluster, asked, tmp_path):
    """Three workers at once that never began: the other node goes on."""
    nodes, _ = cluster
    third = nodes.add_node(num_cpus=4)
    running = process(*asked, "--out", "ray", "--engine", "ray", "--address", nodes.address)
    wait_for_worker(running)
    nodes.remove_node(third, allow_graceful=False)
    code, _, complaints = ended(running)
    assert code == 3, complaints
    assert written(tmp_path / "ray") == 60


@pytest.mark.slow
def test_the_driver_is_killed_and_started_again(process, cluster, asked, tmp_path, stable, images):
    nodes, _ = cluster
    command = [*asked, "--out", "ray", "--engine", "ray", "--address", nodes.address]
    assert ended(process(*asked, "--out", "local"))[0] == 3
    for records in (10, 30):
        running = process(*command)
        wait_for(tmp_path / "ray", records, running)
        running.kill()
        ended(running)
    assert written(tmp_path / "ray") < 60
    assert ended(process(*command))[0] == 3
    assert stable(tmp_path / "ray") == stable(tmp_path / "local")
    assert images(tmp_path / "ray") == images(tmp_path / "local")


@pytest.mark.slow
def test_a_cluster_and_this_machine_share_a_folder(process, cluster, asked, tmp_path, stable):
    nodes, _ = cluster
    both = [process(*asked, "--out", "both", *more) for more in ([], ["--engine", "ray", "--address", nodes.address])]
    assert [ended(each)[0] for each in both] == [3, 3]
    assert ended(process(*asked, "--out", "local"))[0] == 3
    assert stable(tmp_path / "both") == stable(tmp_path / "local")


@pytest.mark.slow
def test_interrupted_it_goes_and_the_same_command_goes_on(process, cluster, asked, tmp_path):
    nodes, _ = cluster
    command = [*asked, "--out", "ray", "--engine", "ray", "--address", nodes.address]
    running = process(*command, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    wait_for(tmp_path / "ray", 10, running)
    running.send_signal(signal.SIGINT)
    code, _, complaints = ended(running)
    assert (code, "what is done is kept" in complaints) == (130, True), complaints
    assert ended(process(*command))[0] == 3
    assert written(tmp_path / "ray") == 60


@pytest.mark.slow
def test_a_plan_is_forecast_on_the_cluster(process, cluster, tmp_path):
    nodes, _ = cluster
    asked = ["--plan-only", "--engine", "ray", "--address", nodes.address, "--images", "100", "--model"]
    running = process(*asked, "digits:standard", "--attack", "lora-pgd[rank=1]")
    code, shown, complaints = ended(running)
    assert code == 0, complaints
    assert "On 2 workers (cpu, threads: 1) about " in shown


@pytest.mark.slow
def test_a_model_that_only_this_process_can_make_is_sent(process, cluster, tmp_path, stable, write_model, monkeypatch):
    nodes, _ = cluster
    model = write_model(tail="os.environ['ONLY_HERE']")
    monkeypatch.setenv("ONLY_HERE", "1")
    asked = ["--model", model, "--attack", "lora-pgd[rank=1,steps=3]", "--images", "40", "--quiet"]
    on_ray = ["--engine", "ray", "--address", nodes.address]
    code, shown, complaints = ended(process(*asked, *on_ray, "--plan-only"))
    assert (code, complaints) == (0, "")
    assert "first cells tried on" in shown
    code, _, complaints = ended(process(*asked, *on_ray, "--out", "ray"))
    assert code == 0, complaints
    assert ended(process(*asked, "--out", "local"))[0] == 0
    assert stable(tmp_path / "ray") == stable(tmp_path / "local")


def engine(**options):
    from art_lowrank.evaluate.ray import OnRay

    return OnRay(plan_of({}), **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"workers": 0}, "workers is 0; give at least 1"),
        ({"gpus": 1.5}, "gpus is 1.5; a worker uses one GPU: give 1, a part of it such as 0.5, or 0"),
        ({"gpus": -1}, "gpus is -1"),
        ({"cpus": 1e-5}, "cpus is 1e-05"),
        ({"cpus": -1}, "cpus is -1"),
        ({"cpus": float("nan")}, "cpus is nan"),
    ],
)
def test_impossible_settings(options, words):
    with pytest.raises(ValueError, match=words):
        engine(**options)


def test_a_gpu_by_number_is_rays_to_give():
    from art_lowrank.evaluate.ray import OnRay

    with pytest.raises(ValueError, match="device is 'cuda:1'; on Ray give auto, cpu or cuda"):
        OnRay(plan_of({"device": "cuda:1"}))


@pytest.mark.parametrize(("device", "gpus"), [("cpu", 1), ("cuda", 0)])
def test_device_and_gpus_that_contradict_each_other(device, gpus):
    from art_lowrank.evaluate.ray import OnRay

    with pytest.raises(ValueError, match=f"device is '{device}' and gpus {gpus}; leave one of them out"):
        OnRay(plan_of({"device": device}), gpus=gpus)


def test_an_address_where_nobody_is():
    from art_lowrank.evaluate.ray import connected

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ValueError, match=f"no Ray cluster answers at {address} .*refused"), connected(address):
        pass


def test_an_address_of_somebody_else_is_given_up(monkeypatch):
    """A server that takes connections and says nothing, as another program's port would."""
    from art_lowrank.evaluate import ray as engine

    monkeypatch.setattr(engine, "ANSWER", 2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        started = time.monotonic()
        with (
            pytest.raises(ValueError, match=f"no Ray cluster answers at {address} .no answer in 2 s"),
            engine.connected(address),
        ):
            pass
    assert time.monotonic() - started < 30


def test_without_ray_it_says_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "art_lowrank.evaluate.ray", raising=False)
    shown = CliRunner().invoke(main, ["evaluate", "--engine", "ray", "--out", str(tmp_path / "out")])
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert "--engine ray needs Ray" in shown.stderr
    assert "pip install 'art-lowrank[distributed]'" in shown.stderr
    assert shown.stderr.count("\n") == 1
