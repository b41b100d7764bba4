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
PYTHON_TYPES: dict[int, type] = {
    ParameterType.NUMBER_INTEGER: int,
    ParameterType.NUMBER_DOUBLE: float,
    ParameterType.BOOLEAN: bool,
    ParameterType.LIST: list,
    ParameterType.STRUCT: dict,
}
JSON_NAMES = {int: "an integer", float: "a number", bool: "true or false"} | {
    list: "a list",
    dict: "a mapping",
}
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
    typed(pipeline, given)
    for name, stage in STAGE_OF.items():
        if name in known:
            text = given.get(name, known[name].default_value.string_value)
            _check_stage(stage, text, where=f"pipeline '{pipeline.name}'")


def typed(pipeline: Any, given: Mapping[str, str]) -> dict[str, Any]:
    """The values as their parameters have them: texts as they are, all else read as JSON.

    Raises ParamsError if one is of another type.
    """
    known = pipeline.pipeline_spec.root.input_definitions.parameters
    return {
        name: _typed(f"pipeline '{pipeline.name}': {name}", known[name].parameter_type, text)
        for name, text in given.items()
    }


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
    if loose := [name for name in images(pipeline, given) if not pinned(name)]:
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


def recurring_command(package: Path, experiment: str) -> str:
    """The command of kfp that runs a package every night; what it is to run with is compiled in.

    `--enabled` is not kfp's default. Values are not given there, for that command sends all as text.
    """
    words = ["--experiment-name", experiment, "--job-name", experiment, "--enabled"]
    when = ["--cron-expression", "0 0 2 * * *", "--pipeline-package-path", str(package)]
    return "  " + shlex.join(["kfp", "recurring-run", "create", *words, *when])


def compile_command(pipeline: Any) -> None:
    """Run `python PIPELINE.py [KEY=VALUE]...`: compile with these values, then say how to submit."""
    file = Path(sys.argv[0])

    def command(
        words: Annotated[
            list[str] | None,
            typer.Argument(metavar="KEY=VALUE", help="Parameters' values to compile in."),
        ] = None,
        params: Annotated[Path | None, typer.Option(help="Values other than the defaults.")] = None,
        output: Annotated[Path, typer.Option(help="Package to write.")] = Path(
            f"{pipeline.name}.yaml"
        ),
    ) -> None:
        words = words or []
        if loose := [word for word in words if "=" not in word]:
            raise typer.BadParameter(f"expected KEY=VALUE, got '{loose[0]}'")
        given = stage_params(params) if params else {}
        given |= dict(word.split("=", maxsplit=1) for word in words)
        if given:
            check(pipeline, given)
        Compiler().compile(pipeline, str(output), pipeline_parameters=typed(pipeline, given))
        file_option = ["--params", str(params)] if params else []
        typer.echo(f"compiled to {output}; to compile and submit in one:")
        typer.echo(f"  {shlex.join(['kfp', 'run', 'submit', str(file), *file_option, *words])}")
        typer.echo("with kfp alone:")
        typer.echo(stock_commands(file, output, pipeline.name, arguments(pipeline, given)))
        typer.echo("every night at two:")
        typer.echo(recurring_command(output, pipeline.name))
        if tagged := [name for name in images(pipeline, given) if not pinned(name)]:
            line = "named by tags, which may change; run 'make push REGISTRY=...' and compile again"
            typer.echo(f"clipflow: {', '.join(tagged)}: {line}", err=True)

    command.__doc__ = pipeline.description
    try:
        typer.run(command)
    except ClipflowError as error:
        typer.echo(f"clipflow: {error}", err=True)
        sys.exit(2)


def _typed(where: str, kind: int, text: str) -> Any:
    if kind == ParameterType.STRING:
        return text
    expected = PYTHON_TYPES[kind]
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    if expected is float and type(value) is int:
        return float(value)
    if type(value) is not expected:
        raise ParamsError(f"{where}: expected {JSON_NAMES[expected]} in JSON, got '{text}'")
    return value


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
