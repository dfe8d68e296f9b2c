"""Checks that EC2 would know every key of a machine's `node_config`.

Ray hands it to EC2 as it is, for workers only when the first is wanted: a typo would show as a cluster that
never grows. The check is against the API's own description in the installed botocore; EC2 is not asked.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from typing import Any

from xal_ray.cluster.files.errors import unknown_key
from xal_ray.errors import ConfigError

_ONLY_RAYS = ("SubnetIds",)  # Ray makes one `SubnetId` of them
_RAYS_OWN = {"MinCount": 1, "MaxCount": 1}  # which EC2 requires and Ray adds


def check_node_config(node_config: Mapping[str, Any], key: str, where: str) -> None:
    """Check what EC2 is handed; without botocore, which the launcher needs anyway, nothing is.

    Raises:
        ConfigError: A key that EC2 does not know, or a value of another type.
    """
    if importlib.util.find_spec("botocore") is None:
        return
    from botocore.validate import ParamValidator

    shape = _run_instances()
    wanted = {name: value for name, value in node_config.items() if name not in _ONLY_RAYS}
    _check_keys(wanted, shape, key, where)
    report = ParamValidator().validate({**wanted, **_RAYS_OWN}, shape)
    if report.has_errors():
        raise ConfigError(
            f"'{key}' does not fit EC2",
            found=str(report.generate_report()).splitlines()[0][:200],
            where=where,
        )


@functools.cache
def _run_instances() -> Any:
    from botocore.loaders import Loader
    from botocore.model import ServiceModel

    described = Loader().load_service_model("ec2", "service-2")
    return ServiceModel(described).operation_model("RunInstances").input_shape


def _check_keys(node: Any, shape: Any, key: str, where: str) -> None:
    if shape.type_name == "structure" and isinstance(node, Mapping):
        for name, value in node.items():
            if name not in shape.members:
                known = [*shape.members, *(_ONLY_RAYS if shape is _run_instances() else ())]
                raise unknown_key(f"{key}.{name}", known, where)
            _check_keys(value, shape.members[name], f"{key}.{name}", where)
    elif shape.type_name == "list" and isinstance(node, list):
        for index, value in enumerate(node):
            _check_keys(value, shape.member, f"{key}[{index}]", where)
