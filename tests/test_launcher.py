"""The variables of torchrun, SLURM and Kubernetes."""

import pytest

from seedfast import launcher

STEP = {
    "SLURM_JOB_ID": "4711",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NODELIST": "gpu[03-04,09],other7",
}


def test_srun_alone_starts_a_group() -> None:
    environment = dict(STEP)
    launcher.adopt(environment)
    group = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "MASTER_ADDR": "gpu03", "MASTER_PORT": "16711"}
    assert environment == STEP | group


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"},  # a batch script, which is no step
        STEP | {"SLURM_STEP_NUM_TASKS": "1"},
        STEP | {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"},  # torchrun, started by srun
    ],
)
def test_other_environments_stay_as_they_are(environment: dict[str, str]) -> None:
    before = dict(environment)
    launcher.adopt(environment)
    assert environment == before


def test_an_address_that_is_given_is_kept() -> None:
    environment = STEP | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
    launcher.adopt(environment)
    assert (environment["MASTER_ADDR"], environment["MASTER_PORT"]) == ("10.0.0.1", "29500")


@pytest.mark.parametrize(
    ("environment", "level"),
    [
        ({}, None),
        ({"WORLD_SIZE": "1"}, None),
        ({"WORLD_SIZE": "2"}, "ERROR"),
        ({"WORLD_SIZE": "2", "TORCH_CPP_LOG_LEVEL": "INFO"}, "INFO"),
    ],
)
def test_a_group_is_spared_warnings_of_pytorch(environment: dict[str, str], level: str | None) -> None:
    launcher.quiet_engine(environment)
    assert environment.get("TORCH_CPP_LOG_LEVEL") == level


@pytest.mark.parametrize(
    ("hosts", "first"),
    [("alone", "alone"), ("a1,a2", "a1"), ("n[1,3]", "n1"), ("n[08-10]-ib,m1", "n08-ib"), ("r1,n[2-3]", "r1")],
)
def test_the_first_host_of_a_list(hosts: str, first: str) -> None:
    assert launcher.first_host(hosts) == first


@pytest.mark.parametrize(
    ("environment", "end"),
    [
        ({}, None),
        ({"SLURM_JOB_END_TIME": "1000"}, 880.0),
        ({"SLURM_JOB_END_TIME": "UNLIMITED"}, None),
        ({"SLURM_JOB_END_TIME": "1000", "SEEDFAST_STOP_AT": "990"}, 990.0),
    ],
)
def test_training_ends_before_its_job(environment: dict[str, str], end: float | None) -> None:
    assert launcher.stop_at(environment) == end


@pytest.mark.parametrize(
    ("environment", "job"),
    [
        ({}, None),
        ({"TORCHELASTIC_RUN_ID": "none"}, None),
        ({"TORCHELASTIC_RUN_ID": "my-job"}, "my-job"),
        ({"TORCHELASTIC_RUN_ID": "my-job", "SLURM_JOB_ID": "7"}, "7"),
    ],
)
def test_the_job_has_a_name(environment: dict[str, str], job: str | None) -> None:
    assert launcher.job(environment) == job
