"""From a pipeline file to a package and its arguments: what compiling and submitting share.

A pipeline parameter called `<stage>_params` holds that stage's section of a params file, with its
catalogue entry put in, as JSON text. Text, because KFP turns a mapping's integers into floats; one
per stage, because a run then shows which stage's values were changed.
"""

from __future__ import annotations

import json
import logging
import re
import runpy
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf import json_format  # type: ignore[import-untyped]
from kfp.cli.compile_ import is_pipeline_func
from kfp.compiler import Compiler
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import ParameterType

from clipflow import params
from clipflow.cluster import Need
from clipflow.errors import ClipflowError, ParamsError, SubmitError, did_you_mean
from clipflow.image import pinned

logger = logging.getLogger(__name__)

PARAMETER = re.compile(r"\{\{\$\.inputs\.parameters\['(?:pipelinechannel--)?(\w+)'\]\}\}")
"""An image that is a parameter of the pipeline, as it stands in a compiled one."""
STAGE_OF = {f"{stage}_params": stage for stage in params.STAGES}


def stage_params(file: Path) -> dict[str, str]:
    """`ingest_params`, `rewrite_params`, ...: the sections of a params file as pipeline parameters.

    Only what is selected is looked at: checking values takes the recipe's file and with it torch,
    which compiling a pipeline must not need. `check` does that before a run is submitted.
    """
    values = params.read(file)
    return {
        name: json.dumps(params.select(values, stage, where=str(file)), sort_keys=True)
        for name, stage in STAGE_OF.items()
    }


def load(file: Path) -> Any:
    """The one pipeline defined in a file. Raises SubmitError if there is none, or more than one."""
    if not file.is_file():
        raise SubmitError(f"{file}: no such file; pass a .py file that defines a pipeline")
    sys.path.insert(0, str(file.parent.resolve()))
    try:
        namespace = runpy.run_path(str(file), run_name=file.stem)
    except ClipflowError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise SubmitError(
            f"{file}: can't be imported: {what}; 'python {file}' shows where"
        ) from error
    finally:
        del sys.path[0]
    pipelines = [value for value in namespace.values() if is_pipeline_func(value)]
    if len(pipelines) != 1:
        names = f" ({', '.join(sorted(p.name for p in pipelines))})" if pipelines else ""
        raise SubmitError(
            f"{file}: expected one @dsl.pipeline, found {len(pipelines)}{names}; "
            "keep one pipeline to a file"
        )
    return pipelines[0]


def check(pipeline: Any, given: Mapping[str, str]) -> None:
    """Raise ParamsError if a run with these values can't work: unknown, missing or invalid ones."""
    known = pipeline.pipeline_spec.root.input_definitions.parameters
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ParamsError(f"pipeline '{pipeline.name}': unknown parameter '{name}'; {hint}")
    for name, parameter in sorted(known.items()):
        if not (name in given or parameter.is_optional or parameter.HasField("default_value")):
            raise ParamsError(
                f"pipeline '{pipeline.name}': no value for '{name}'; add {name}=VALUE"
            )
    for name, stage in STAGE_OF.items():
        if name in known:
            text = given.get(name, known[name].default_value.string_value)
            _check_stage(stage, text, where=f"pipeline '{pipeline.name}'")


def images(pipeline: Any, given: Mapping[str, str]) -> list[str]:
    """The images of all tasks, each once; those that are parameters with the value of this run."""
    known = pipeline.pipeline_spec.root.input_definitions.parameters
    values = {name: known[name].default_value.string_value for name in known} | dict(given)
    deployment = json_format.MessageToDict(pipeline.pipeline_spec.deployment_spec)
    executors = deployment.get("executors", {}).values()
    named = [e["container"]["image"] for e in executors if "container" in e]
    return sorted({PARAMETER.sub(lambda m: values.get(m[1]) or m[0], name) for name in named})


def check_pinned(pipeline: Any, given: Mapping[str, str]) -> None:
    """Raise SubmitError if an image is not named by its digest."""
    loose = [name for name in images(pipeline, given) if not pinned(name)]
    if loose:
        raise SubmitError(
            f"pipeline '{pipeline.name}': expected images named by digest (NAME@sha256:...), got"
            f" {', '.join(loose)}; run 'make push REGISTRY=...' and submit again, or pass --allow-tags"
        )


def needs(pipeline: Any) -> list[Need]:
    """Secrets, config maps and volume claims that tasks refer to by a constant name, not optionally."""
    keys: dict[tuple[str, str], set[str]] = {}
    for executor in _executors(pipeline):
        for kind, name, wanted in _references(executor):
            if name:
                keys.setdefault((kind, name), set()).update(wanted)
    return sorted(Need(kind, name, tuple(sorted(wanted))) for (kind, name), wanted in keys.items())


def arguments(pipeline: Any, given: Mapping[str, str]) -> list[str]:
    """`KEY=VALUE` words for `kfp run create`, which reads each VALUE as JSON where it can.

    So a string is written as a JSON string, and arrives as it was given.
    """
    known = pipeline.pipeline_spec.root.input_definitions.parameters
    strings = {name for name in known if known[name].parameter_type == ParameterType.STRING}
    return [f"{k}={json.dumps(v) if k in strings else v}" for k, v in given.items()]


def stock_commands(file: Path, package: Path, experiment: str, args: Iterable[str] = ()) -> str:
    """The two commands of kfp alone that do what `kfp run submit FILE` does in one."""
    create = shlex.join(["kfp", "run", "create", "-e", experiment, "-f", str(package), *args])
    compile_ = shlex.join(["kfp", "dsl", "compile", "--py", str(file), "--output", str(package)])
    return f"  {compile_}\n  {create}"


def compile_command(pipeline: Any) -> None:
    """Run `python PIPELINE.py [--params FILE] [--output FILE]`: compile, then say how to submit."""
    file = Path(sys.argv[0])

    def command(
        params: Annotated[Path | None, typer.Option(help="Values other than the defaults.")] = None,
        output: Annotated[Path, typer.Option(help="Package to write.")] = Path(
            f"{pipeline.name}.yaml"
        ),
    ) -> None:
        values = stage_params(params) if params else {}
        Compiler().compile(pipeline, str(output), pipeline_parameters=values)
        submit = ["kfp", "run", "submit", str(file), *(["--params", str(params)] if params else [])]
        typer.echo(f"compiled to {output}; to compile and submit in one:")
        typer.echo(f"  {shlex.join(submit)}")
        typer.echo("with kfp alone:")
        typer.echo(stock_commands(file, output, pipeline.name, arguments(pipeline, values)))

    command.__doc__ = pipeline.description
    try:
        typer.run(command)
    except ClipflowError as error:
        typer.echo(f"clipflow: {error}", err=True)
        sys.exit(2)


def _check_stage(stage: str, text: str, *, where: str) -> None:
    try:
        params.parse(text, stage, where=where)
    except json.JSONDecodeError as error:
        raise ParamsError(
            f"{where}: {stage}_params: expected the JSON text of a section, got '{text}' ({error});"
            " or pass --params FILE"
        ) from None
    except ModuleNotFoundError as error:
        logger.warning("%s not checked before the run: %s is not installed", stage, error.name)


def _executors(pipeline: Any) -> list[KubernetesExecutorConfig]:
    kubernetes = pipeline.platform_spec.platforms.get("kubernetes")
    if kubernetes is None:
        return []
    return [
        json_format.ParseDict(json_format.MessageToDict(executor), KubernetesExecutorConfig())
        for executor in kubernetes.deployment_spec.executors.values()
    ]


def _references(executor: KubernetesExecutorConfig) -> list[tuple[str, str, list[str]]]:
    found = []
    for secret in executor.secret_as_env:
        if not secret.optional:
            name = secret.secret_name or _constant(secret.secret_name_parameter)
            found.append(("Secret", name, [pair.secret_key for pair in secret.key_to_env]))
    for map_ in executor.config_map_as_env:
        if not map_.optional:
            name = map_.config_map_name or _constant(map_.config_map_name_parameter)
            found.append(("ConfigMap", name, [pair.config_map_key for pair in map_.key_to_env]))
    for volume in executor.secret_as_volume:
        if not volume.optional:
            name = volume.secret_name or _constant(volume.secret_name_parameter)
            found.append(("Secret", name, []))
    for volume in executor.config_map_as_volume:
        if not volume.optional:
            name = volume.config_map_name or _constant(volume.config_map_name_parameter)
            found.append(("ConfigMap", name, []))
    for mount in executor.pvc_mount:
        found.append(
            ("PersistentVolumeClaim", mount.constant or _constant(mount.pvc_name_parameter), [])
        )
    return found


def _constant(parameter: Any) -> str:
    """The name if it is known before the run, else an empty one."""
    return str(parameter.runtime_value.constant.string_value)
